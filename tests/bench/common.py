# SPDX-License-Identifier: MIT
# What the parts of make bench that are written in Python share. The first argument of each is the build's folder.
import json, os, signal, subprocess, sys, time

build = os.path.realpath(sys.argv[1])
rows = []


def say(name, value, unit, limit, note=""):
    rows.append({"name": name, "value": round(value, 3), "unit": unit, "to_reach": limit, "note": note})
    print(f"{name:<52} {value:>10.2f} {unit:<4} ({limit}{'; ' + note if note else ''})", flush=True)


def wait_until(what, seconds, step=0.02):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(step)
    return False


class Daemon:
    def __init__(self, folder):
        os.environ["BPFTIME_RUNTIME_DIR"] = folder + "/run"
        os.environ["BPFTIME_POLICY_DIR"] = folder + "/policy"
        self.log = open(folder + "/log", "w")
        self.p = subprocess.Popen([build + "/bpftimed", "--log-level", "warning"], stderr=self.log)
        wait_until(lambda: os.path.exists(folder + "/run/control.sock"), 10)

    def ask(self, *words):
        r = subprocess.run([build + "/bpftime", *words], capture_output=True, text=True)
        return json.loads(r.stdout) if r.returncode == 0 and "--json" in words else r

    def probes(self):
        return [p for t in self.ask("ps", "--json") for p in t["probes"]]

    def size(self):
        status = open(f"/proc/{self.p.pid}/status").read()
        rss = int(status.split("VmRSS:")[1].split()[0]) // 1024
        return f"daemon: {len(os.listdir(f'/proc/{self.p.pid}/fd'))} descriptors, {rss} MiB"

    def end(self):
        self.p.send_signal(signal.SIGTERM)
        self.p.wait()
        self.log.close()


def start_tool(*command):
    """A tool that has attached."""
    p = subprocess.Popen(["env", "--default-signal=INT", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    p.stdout.readline()
    time.sleep(0.7)
    return p


def end_tool(p):
    while p.poll() is None:
        p.send_signal(signal.SIGINT)
        try:
            p.wait(1)
        except subprocess.TimeoutExpired:
            pass


def write(name):
    out = sys.argv[2] if len(sys.argv) > 2 else f"{build}/{name}.json"
    json.dump({"kernel": os.uname().release, "rows": rows}, open(out, "w"))
    print("written to", out)
