//! nginx with mutual TLS in front of `receiver.py`, both on free ports of the loopback address.

use crate::pki::Pki;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Both servers; killed when the test is over.
pub(crate) struct Peer {
    /// Where nginx listens.
    pub(crate) port: u16,
    behind: u16,
    nginx: Child,
    receiver: Child,
    _dir: tempfile::TempDir,
}

/// What the receiver holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The last body of each `Type/id`.
    pub(crate) resources: BTreeMap<String, Value>,
    /// How often each was written.
    pub(crate) versions: BTreeMap<String, u64>,
    /// What a model that nobody here wrote had against any of them.
    pub(crate) wrong: Vec<Value>,
}

impl Peer {
    pub(crate) fn start(pki: &Pki) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let python = std::env::var("CHAIRSIDE_PYTHON").unwrap_or_else(|_| String::from("python3"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/receiver.py");
        let mut receiver = Command::new(python)
            .arg(script)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the receiver: is Python there, and CHAIRSIDE_PYTHON right?");
        let mut line = String::new();
        BufReader::new(receiver.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let behind: u16 =
            line.trim().parse().expect("the receiver says its port: is fhir.resources installed?");

        // nginx cannot choose a port by itself; one that was free a moment ago is as near as it gets.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("ca.pem"), &pki.ca).unwrap();
        std::fs::write(path("server.pem"), &pki.receiver.certificate).unwrap();
        std::fs::write(path("server.key"), &pki.receiver.key).unwrap();
        std::fs::write(path("nginx.conf"), configuration(dir.path(), port, behind)).unwrap();
        let nginx = Command::new("nginx")
            .arg("-c")
            .arg(path("nginx.conf"))
            .args(["-e", "stderr"])
            .spawn()
            .expect("start nginx: is it installed?");
        let peer = Self { port, behind, nginx, receiver, _dir: dir };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        peer
    }

    /// Everything the receiver holds now.
    pub(crate) fn held(&self) -> Held {
        let mut stream = TcpStream::connect(("127.0.0.1", self.behind)).unwrap();
        stream.write_all(b"GET /held HTTP/1.1\r\nHost: receiver\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer with a body");
        let mut body: Value = serde_json::from_str(body).unwrap();
        let mut take = |key: &str| body[key].take();
        Held {
            resources: serde_json::from_value(take("held")).unwrap(),
            versions: serde_json::from_value(take("versions")).unwrap(),
            wrong: serde_json::from_value(take("wrong")).unwrap(),
        }
    }

    /// Asks until what it holds is enough.
    pub(crate) fn until(&self, what: &str, enough: impl Fn(&Held) -> bool) -> Held {
        for _ in 0..20_000 {
            let held = self.held();
            if enough(&held) {
                return held;
            }
            assert!(held.wrong.is_empty(), "the receiver refused: {:?}", held.wrong);
        }
        panic!("not seen at the receiver: {what}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in [&mut self.nginx, &mut self.receiver] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Held {
    /// Observations of an MDC code.
    pub(crate) fn observations<'a>(&'a self, code: &'a str) -> impl Iterator<Item = &'a Value> {
        self.resources.values().filter(move |resource| {
            resource["resourceType"] == "Observation" && resource["code"]["coding"][0]["code"] == code
        })
    }

    /// Every pseudonym that any reading names.
    pub(crate) fn subjects(&self) -> BTreeSet<String> {
        self.resources
            .values()
            .filter_map(|resource| resource.pointer("/subject/identifier/value")?.as_str())
            .map(String::from)
            .collect()
    }
}

fn configuration(dir: &Path, port: u16, behind: u16) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {dir}/nginx.pid;\nerror_log stderr error;\nevents {{}}\n\
         http {{\n  access_log off;\n  client_max_body_size 4m;\n  client_body_temp_path {dir}/body;\n\
         proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/f;\n  uwsgi_temp_path {dir}/u;\n  scgi_temp_path {dir}/s;\n\
         server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_protocols TLSv1.3;\n    ssl_certificate {dir}/server.pem;\n\
         ssl_certificate_key {dir}/server.key;\n    ssl_client_certificate {dir}/ca.pem;\n    ssl_verify_client on;\n\
         location / {{ proxy_pass http://127.0.0.1:{behind}; }}\n  }}\n}}\n"
    )
}
