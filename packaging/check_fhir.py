#!/usr/bin/env python3
"""Checks FHIR files that chairside wrote: R4 JSON schema, an independent R4B model, and that the checks can fail.

usage: check_fhir.py SCHEMA FOLDER...   (every *.json below the folders: a resource, or a Bundle)
"""

import copy
import json
import pathlib
import sys
from decimal import Decimal

import jsonschema
from fhir.resources.R4B import get_fhir_model_class

# The schema's own entry point tries every resource type; naming the type is exact and a hundred times faster.
TYPES = {"Observation", "Device", "DeviceMetric", "Patient", "Procedure", "Bundle", "OperationOutcome",
         "CapabilityStatement"}


def validators(schema_file):
    schema = json.loads(pathlib.Path(schema_file).read_text())
    return {
        kind: jsonschema.Draft6Validator({**schema, "oneOf": [{"$ref": f"#/definitions/{kind}"}]})
        for kind in TYPES
    }


def problems(resource, schemas):
    """What is wrong with one resource, as sentences."""
    kind = resource.get("resourceType")
    if kind not in TYPES:
        return [f"unexpected resource type {kind!r}"]
    found = [f"schema: {error.json_path}: {error.message[:200]}" for error in schemas[kind].iter_errors(resource)]
    try:
        get_fhir_model_class(kind).model_validate(resource)
    except Exception as error:  # the model raises several kinds
        found.append(f"model: {str(error)[:300]}")
    return found


def resources(document):
    """The document itself and every resource inside a Bundle."""
    yield document
    if document.get("resourceType") == "Bundle":
        for entry in document.get("entry", []):
            if "resource" in entry:
                yield entry["resource"]


def self_test(observation, schemas):
    """Both validators together must see each of these mistakes, or a green run would mean nothing."""
    def broken(change):
        document = copy.deepcopy(observation)
        change(document)
        return document

    mistakes = {
        "no code": lambda d: d.pop("code"),
        "bogus status": lambda d: d.update(status="finished"),
        "unknown element": lambda d: d.update(valueNumber=1),
        "bad id": lambda d: d.update(id="no spaces allowed"),
        "bad date": lambda d: d.update(effectiveDateTime="yesterday"),
    }
    return [name for name, change in mistakes.items() if not problems(broken(change), schemas)]


def main():
    schema_file, *folders = sys.argv[1:]
    schemas = validators(schema_file)
    files = sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*.json"))
    checked, wrong, sample = 0, 0, None
    for path in files:
        document = json.loads(path.read_text(), parse_float=Decimal)
        for resource in resources(document):
            checked += 1
            if resource.get("resourceType") == "Observation" and "effectiveDateTime" in resource:
                sample = resource
            for problem in problems(resource, schemas):
                wrong += 1
                print(f"{path}: {problem}")
    if sample is None:
        sys.exit("no Observation found: nothing was checked")
    for missed in self_test(sample, schemas):
        wrong += 1
        print(f"the validators did not see: {missed}")
    print(f"{checked} resources in {len(files)} files, {wrong} problems")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
