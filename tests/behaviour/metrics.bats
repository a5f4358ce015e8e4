#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# OpenMetrics: by bpftime, by HTTP, and to those who ask in other ways.

bats_require_minimum_version 1.5.0
load helpers

TOP=$BATS_TEST_DIRNAME/../..

# Debian's Python has the parser. parsed EXPRESSION: what Python finds in $output, which is OpenMetrics: m("name", label=value, ...) is a sample's value.
parsed() {
	printf '%s\n' "$output" | /usr/bin/python3 -c '
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
families = list(parse(sys.stdin.read()))
def m(name, **labels):
    return [float(s.value) for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
print(eval(sys.argv[1]))' "$1"
}

need_parser() { /usr/bin/python3 -c 'import prometheus_client.openmetrics' 2>/dev/null || skip "needs python3-prometheus-client"; }

# A Python program that has the address as A and a function ask(method, path) -> (status, headers, body).
http() {
	run -0 bpftime status --json
	timeout 60 python3 - "$(json 'j["metrics"]')" <<END
import http.client, socket, sys, time
A = sys.argv[1]
def ask(method, path):
    c = http.client.HTTPConnection(A, timeout=30)
    c.request(method, path)
    r = c.getresponse()
    return r.status, r.headers, r.read().decode()
$(cat)
END
}

@test "bpftime metrics prints OpenMetrics" {
	need_root
	need_parser
	fake_tools "$(fake_tool $$ partly)"
	fake_start
	kill -HUP "$DAEMON"
	wait_until 5 eval 'bpftime events | grep -q policy-load'
	run -0 bpftime metrics
	[ "${lines[-1]}" = "# EOF" ]
	[ "$(parsed 'm("bpftime_tools")')" = "[1.0]" ]
	[ "$(parsed 'm("bpftime_policy_reloads_total", result="success")')" = "[1.0]" ]
	[ "$(parsed 'm("bpftime_decisions_total", kind="policy-load")')" = "[1.0]" ]
	[ "$(parsed 'm("bpftime_refusals_total", of="target")')" = "[$(printf '0.0, %.0s' {1..11})0.0]" ]
	[ "$(parsed 'm("bpftime_switch_seconds_count", to="kernel")')" = "[0.0]" ]
	[ "$(parsed '[f.unit for f in families if f.name == "bpftime_switch_seconds"]')" = "['seconds']" ]
	[ "$(parsed 'all(f.documentation for f in families)')" = True ]
	[ "$(parsed '[s.labels for f in families for s in f.samples if s.name == "bpftime_build_info"]')" = "[{'version': '$(cat "$TOP/VERSION")'}]" ]
	fails 2 bpftime metrics extra
}

@test "metrics by HTTP, at a port that status tells" {
	need_root
	fake_tools "$(fake_tool $$ partly)"
	fake_start --metrics-listen 127.0.0.1:0
	http <<'END'
status, headers, body = ask("GET", "/metrics")
assert status == 200 and headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8", headers
assert body.endswith("# EOF\n") and "\nbpftime_tools 1\n" in body
status, headers, nothing = ask("HEAD", "/metrics")
assert status == 200 and nothing == "" and int(headers["Content-Length"]) > 1000
for path in "/", "/metrics/", "/metric", "/../metrics":
    assert ask("GET", path)[0] == 404, path
for method in "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE":
    status, headers, body = ask(method, "/metrics")
    assert status == 405 and headers["Allow"] == "GET, HEAD", (method, status)
END
	run -0 bpftime status
	[[ $output == *"metrics    http://127.0.0.1:"*"/metrics"* ]]
	daemon_stop
	fake_start --metrics-listen '[::1]:0'
	http <<<'assert ask("GET", "/metrics")[0] == 200 and A.startswith("[::1]:")'
}

@test "those who ask for metrics and do not listen, or never end asking, hold nobody up" {
	need_root
	fake_start --metrics-listen 127.0.0.1:0
	http <<'END'
host, port = A.rsplit(":", 1)
def conn():
    s = socket.create_connection((host, int(port)), timeout=30)
    return s
slow = [conn() for i in range(8)]
for s in slow:
    s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
endless = conn()
try:
    for i in range(1000):
        endless.sendall(b"X-%d: %s\r\n" % (i, b"x" * 1000))
    endless.recv(1000)
except OSError:
    pass
start = time.time()
assert ask("GET", "/metrics")[0] == 200
assert time.time() - start < 5
junk = conn()
junk.sendall(b"\0\xff\r\n\r\n")
junk.recv(1000)
assert ask("GET", "/metrics")[0] == 200
END
	run -0 bpftime ps
}

@test "metrics are for this machine unless said otherwise" {
	need_root
	fails 2 "$B/tests/fake/bpftimed" --metrics-listen 0.0.0.0:0
	[[ $stderr == *"other machines could read metrics at 0.0.0.0:0, which needs --metrics-public"* ]]
	for a in 127.0.0.1 :1 localhost:1 127.0.0.1:99999 ''; do
		fails 2 "$B/tests/fake/bpftimed" --metrics-listen "$a"
		[[ $stderr == *"is no ADDRESS:PORT"* ]]
	done
	fake_start
	run -0 bpftime status --json
	[ "$(json 'j["metrics"]')" = None ]
	daemon_stop
	fake_start --metrics-listen 127.0.0.1:0
	run -0 bpftime status --json
	taken=$(json 'j["metrics"]')
	fails 1 "$B/tests/fake/bpftimed" --metrics-listen "$taken" --runtime-dir "$SESSION/second"
	[[ $stderr == "bpftimed: metrics cannot be served at $taken: "* ]]
	[ ! -e "$SESSION/second" ]
}

@test "an idle bpftimed that serves metrics uses no CPU" {
	need_root
	fake_start --metrics-listen 127.0.0.1:0
	http <<<'ask("GET", "/metrics")'
	ticks() { awk '{ print $14 + $15 }' "/proc/$DAEMON/stat"; }
	before=$(ticks)
	sleep 2
	[ $(($(ticks) - before)) -le 2 ]
}

@test "the examples for Prometheus and Grafana name metrics that there are" {
	need_root
	need python3
	cat "$TOP"/daemon/{metrics,measure}.c >"$SESSION/source"
	python3 - "$TOP/examples/metrics/grafana-dashboard.json" "$SESSION/source" <<'END'
import json, re, sys
board, source = json.load(open(sys.argv[1])), open(sys.argv[2]).read()
panels = [p for p in board["panels"] if "targets" in p]
used = set(re.findall(r"\b(?:bpftime|process)_\w+", " ".join(t["expr"] for p in panels for t in p["targets"])))
known = set(re.findall(r'om_family\(\s*out, "(\w+)"', source))
assert len(panels) >= 6 and used
for name in used:
    assert re.sub(r"_(total|info|bucket|count|sum)$", "", name) in known, name
assert len({p["id"] for p in panels}) == len(panels)
END
	grep -q '127.0.0.1:9464' "$TOP/examples/metrics/prometheus.yml"
	/usr/bin/python3 -c 'import yaml, sys; c = yaml.safe_load(open(sys.argv[1])); assert c["scrape_configs"][0]["static_configs"]' \
		"$TOP/examples/metrics/prometheus.yml" || ! /usr/bin/python3 -c 'import yaml' 2>/dev/null
}
