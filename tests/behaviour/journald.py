#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# journald.py SOCKET FILE: takes records as systemd-journald does (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) and appends each to FILE
# as a line of JSON: {"FIELD": ["value", ...]}.
import json, socket, struct, sys

s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
with open(sys.argv[2], "w") as out:
    while True:
        data, record = s.recv(1 << 20), {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (n,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + n], data[8 + n + 1 :]
            record.setdefault(name.decode(), []).append(value.decode())
        print(json.dumps(record), file=out, flush=True)
