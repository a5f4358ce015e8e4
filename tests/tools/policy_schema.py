#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""policy_schema.py BPFTIME SCHEMA FILE...: do the JSON schema of policy files and `bpftime policy check` agree?

Of each file, which both must take, variants are made in which one key or value is another; both must say the same of each.
Every key of the schema must occur in the files."""
import copy
import json
import os
import subprocess
import sys
import tempfile

import jsonschema

VALUES = [None, True, -1, 0, 1, 1.5, 2000000000, "", "x", "x.service", "/x", "*", "offload", "host", "uprobe", [], {}, ["bpf_map_*"], [1]]
# What only the host knows: there a text may be a mistake that the schema does not see.
HOST_KNOWS = {"user", "helpers"}


def nodes(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from nodes(child, path + (key,))


def parent_of(document, path):
    for step in path[:-1]:
        document = document[step]
    return document


def variants(document):
    yield document
    for path in nodes(document):
        if not path:
            continue
        for value in VALUES:
            if HOST_KNOWS & set(path) and isinstance(value, str):
                continue
            one = copy.deepcopy(document)
            parent_of(one, path)[path[-1]] = value
            yield one
        one = copy.deepcopy(document)
        gone = parent_of(one, path).pop(path[-1])
        yield one
        if isinstance(path[-1], str):
            one = copy.deepcopy(one)
            parent_of(one, path)[path[-1] + "s"] = gone
            yield one


def keys_of(document):
    return {path[-1] for path in nodes(document) if path and isinstance(path[-1], str)}


def schema_keys(schema):
    found = set(schema.get("properties", {}))
    for child in schema.values():
        for one in child.values() if isinstance(child, dict) else ():
            if isinstance(one, dict):
                found |= schema_keys(one)
    return found


def main():
    bpftime, schema_file, *files = sys.argv[1:]
    schema = json.load(open(schema_file))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    documents = [json.load(open(f)) for f in files]
    missing = schema_keys(schema) - set().union(*map(keys_of, documents))
    if missing:
        sys.exit(f"keys of the schema that occur in no example: {', '.join(sorted(missing))}")
    texts = sorted({json.dumps(v) for d in documents for v in variants(d)})
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, f"{i}.json") for i in range(len(texts))]
        for name, text in zip(names, texts):
            with open(name, "w") as f:
                f.write(text)
        answer = subprocess.run([bpftime, "policy", "check", "--json", *names], capture_output=True, text=True)
        wrong = {e.split(":")[0]: e for e in json.loads(answer.stdout)["errors"]}
    differ = 0
    for name, text in zip(names, texts):
        errors = [e.message for e in validator.iter_errors(json.loads(text))]
        if bool(errors) != (name in wrong):
            differ += 1
            print(f"{text}\n  schema: {errors[:1] or 'right'}\n  check:  {wrong.get(name, 'right')}")
    for document in documents:
        for error in validator.iter_errors(document):
            differ += 1
            print(f"{document}: {error.message}")
    print(f"{len(texts)} policies, of which {len(wrong)} have mistakes; of {differ} the two say different things")
    sys.exit(1 if differ else 0)


main()
