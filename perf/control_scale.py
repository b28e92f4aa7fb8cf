#!/usr/bin/python3
"""The control plane at size: 1,000 services of 10 backends, the real sluiced, sluice-dataplane and sluice.

Prints how long it takes to load the configuration, to say what another one would change (every weight of it another), to
take that over, to add and to remove a backend, and to take everything over from a killed predecessor; and sluiced's memory. The
worker polls a net_null port, pinned to the last CPU; everything else runs on the first. Needs root: the backends are neighbours in
a network namespace of this script's own.

  perf/control_scale.py BUILD [--services N] [--backends N] [--no-huge] [--json]
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

NETNS = f"sluice-scale-{os.getpid()}"
FOLDER = pathlib.Path("/dev/shm") / NETNS


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--backends", type=int, default=10, help="of each service")
    parser.add_argument("--no-huge", action="store_true", help="sluice-dataplane without hugepages")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def address(number):
    return f"10.{50 + number // 65536}.{number // 256 % 256}.{number % 256}"


def configuration(options, weight):
    lines, number = [], 300
    for s in range(options.services):
        lines += ["[[service]]", f'name = "s{s}"', f'vip = "203.{s // 256}.{s % 256}.1"', "port = 80", 'protocol = "tcp"',
                  'forward = "ipip"', 'health = { type = "none" }']
        for b in range(options.backends):
            number += 1
            lines += ["[[service.backend]]", f'name = "b{b}"', f'address = "{address(number)}"', f"weight = {weight + b}"]
    return "\n".join(lines) + "\n"


def make_network(options):
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    lines = ["link add eth0 type veth peer name other", "link set other up", "addr add 10.50.0.1/8 dev eth0",
             "link set eth0 up", "link set lo up"]
    count = options.services * options.backends
    lines += [f"neigh add {address(n)} lladdr 02:00:00:00:{n // 256 % 256:02x}:{n % 256:02x} dev eth0 nud permanent"
              for n in range(300, 302 + count)]
    subprocess.run(["ip", "-netns", NETNS, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def start(cpus, *command):
    inside = ["nsenter", f"--net=/run/netns/{NETNS}", *map(str, command)]
    with open(FOLDER / f"{pathlib.Path(str(command[0])).name}.log", "a", encoding="utf-8") as log:
        return subprocess.Popen(inside, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, cpus))


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


def ask(build, *words):
    done = subprocess.run([build / "controlplane/sluice", "--dir", FOLDER, "--json", *map(str, words)],
                          capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {"error": done.stderr}


def wait(condition, what):
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(path.read_text()[-2000:] for path in FOLDER.glob("*.log"))
            sys.exit(f"error: not within 60 s: {what}\n{logs}")
        time.sleep(0.01)


def active(build, count):
    services = ask(build, "show", "services").get("services", [])
    return len(services) > 0 and sum(s["backends_active"] for s in services) == count


def workers_follow(build):
    report = ask(build, "show", "dataplane")
    workers = [w for w in report.get("dataplane", {}).get("workers", []) if w["active"]]
    return bool(workers) and all(w["acknowledged"] >= report["control"]["generation"] for w in workers)


def timed(name, build, *words):
    began = time.monotonic()
    answer = ask(build, *words)
    if not answer.get("ok"):
        sys.exit(f"error: {name}: {answer}")
    return time.monotonic() - began


def memory_bytes(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "RssShmem")}


def measure(options):
    build, cpus = options.build, sorted(os.sched_getaffinity(0))
    first, second = FOLDER / "first.toml", FOLDER / "second.toml"
    first.write_text(configuration(options, 100))
    second.write_text(configuration(options, 200))
    count = options.services * options.backends
    result = {"services": options.services, "backends": count}
    began = time.monotonic()
    subprocess.run([build / "controlplane/sluice", "check", first], check=True, stdout=subprocess.DEVNULL)
    result["check_s"] = time.monotonic() - began

    huge = ["--no-huge"] if options.no_huge else []
    dataplane = start(cpus, build / "dataplane/sluice-dataplane", "--dir", FOLDER, "--vdev", "net_null0", "--cores", cpus[-1],
                      *huge)
    began = time.monotonic()
    sluiced = start(cpus[:1], build / "controlplane/sluiced", first, "--dir", FOLDER, "--state", FOLDER / "state")
    try:
        wait(lambda: active(build, count), "all backends take new flows")
        result["load_s"] = time.monotonic() - began
        wait(lambda: workers_follow(build), "the worker follows")
        result["diff_s"] = timed("diff", build, "diff", second)
        result["apply_s"] = timed("apply", build, "apply", second)
        wait(lambda: active(build, count), "all backends take new flows")
        result["backend_add_s"] = timed("add", build, "backend", "add", "s1/new", address(301 + count))
        result["backend_remove_s"] = timed("remove", build, "backend", "remove", "s1/new")
        began = time.monotonic()
        for s in range(200):
            timed("weight", build, "backend", "weight", f"s{s % options.services}/b1", 50 + s % 10)
        result["weight_s"] = (time.monotonic() - began) / 200
        result["memory_bytes"] = memory_bytes(sluiced)
        sluiced.kill()
        sluiced.wait()
        began = time.monotonic()
        sluiced = start(cpus[:1], build / "controlplane/sluiced", first, "--dir", FOLDER, "--state", FOLDER / "state")
        wait(lambda: active(build, count), "all backends take new flows")
        result["takeover_s"] = time.monotonic() - began
    finally:
        stop(sluiced)
        stop(dataplane)
    return result


def main():
    options = arguments()
    options.build = options.build.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the default action would leave everything as it is
    FOLDER.mkdir()
    try:
        make_network(options)
        result = measure(options)
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=False)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.rmtree(pathlib.Path("/sys/fs/bpf/sluice") / str(FOLDER).strip("/").replace("/", "+"), ignore_errors=True)
    if options.json:
        return print(json.dumps(result))
    memory = result.pop("memory_bytes")
    for name, value in result.items():
        print(f"{name:18} {value:.3f}" if isinstance(value, float) else f"{name:18} {value}")
    print("sluiced's memory   " + ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in memory.items()))
    return None


if __name__ == "__main__":
    main()
