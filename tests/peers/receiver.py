#!/usr/bin/env python3
"""A FHIR receiver that shares no code with chairside: keeps what it is sent, and judges every resource with a public model.

Listens on a free port of the loopback address and prints it. Plain HTTP on purpose: nginx terminates mutual TLS in front.
GET /held answers with everything it holds, how often each id was written, and what was wrong.
"""

import http.server
import json
import sys
import threading

from fhir.resources.R4B import get_fhir_model_class

HELD, VERSIONS, WRONG = {}, {}, []
LOCK = threading.Lock()


def judge(resource):
    try:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        return None
    except Exception as error:  # the model raises several kinds
        return str(error)[:300]


def put(entry):
    """One `PUT Type/id` of a batch; answers with the entry's response."""
    resource, url = entry["resource"], entry["request"]["url"]
    wrong = judge(resource)
    if entry["request"]["method"] != "PUT" or url != f"{resource['resourceType']}/{resource['id']}":
        wrong = wrong or f"request does not fit the resource: {url}"
    with LOCK:
        if wrong:
            WRONG.append({"url": url, "why": wrong})
            return {"status": "422"}
        new = url not in HELD
        HELD[url] = resource
        VERSIONS[url] = VERSIONS.get(url, 0) + 1
    return {"status": "201" if new else "200"}


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self):
        with LOCK:
            self.answer(200, {"held": HELD, "versions": VERSIONS, "wrong": WRONG})

    def do_POST(self):
        bundle = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        entries = [{"response": put(entry)} for entry in bundle["entry"]]
        self.answer(200, {"resourceType": "Bundle", "type": "batch-response", "entry": entries})

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
