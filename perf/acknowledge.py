#!/usr/bin/python3
"""From a CLI command to every worker's acknowledgement: the real sluiced, sluice-dataplane and sluice, 10 services of
100 backends, the weight of one backend changed each time.

The worker polls a net_null port that always has packets, pinned to the last CPU; everything else runs on the first. The
time is sluiced's own: from the receipt of the command to the last worker's acknowledgement, the build of the lookup table
(65,537 slots) included. Needs root: the backends are neighbours in a network namespace of this script's own.

  perf/acknowledge.py BUILD [--changes N] [--no-huge] [--json]
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

SERVICES, BACKENDS = 10, 100
NETNS = f"sluice-ack-{os.getpid()}"
FOLDER = pathlib.Path("/dev/shm") / NETNS


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--no-huge", action="store_true", help="sluice-dataplane without hugepages")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def address(service, backend):
    return f"10.50.{service + 1}.{backend + 1}"


def configuration():
    lines = []
    for s in range(SERVICES):
        lines += ["[[service]]", f'name = "s{s}"', f'vip = "203.0.113.{s + 1}"', "port = 80", 'protocol = "tcp"',
                  'forward = "ipip"', 'health = { type = "none" }']
        for b in range(BACKENDS):
            lines += ["[[service.backend]]", f'name = "b{b}"', f'address = "{address(s, b)}"']
    return "\n".join(lines) + "\n"


def make_network():
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    lines = ["link add eth0 type veth peer name other", "link set other up", "addr add 10.50.0.1/16 dev eth0",
             "link set eth0 up", "link set lo up"]
    lines += [f"neigh add {address(s, b)} lladdr 02:00:00:00:{s:02x}:{b:02x} dev eth0 nud permanent"
              for s in range(SERVICES) for b in range(BACKENDS)]
    subprocess.run(["ip", "-netns", NETNS, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def start(cpus, *command):
    inside = ["nsenter", f"--net=/run/netns/{NETNS}", *map(str, command)]
    with open(FOLDER / f"{pathlib.Path(str(command[0])).name}.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(inside, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, cpus))


def ask(build, *words):
    done = subprocess.run([build / "controlplane/sluice", "--dir", FOLDER, "--json", *words], capture_output=True, text=True,
                          check=False)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {}


def all_take_flows(build):
    backends = ask(build, "show", "backends").get("backends", [])
    return len(backends) == SERVICES * BACKENDS and all(b["takes_new_flows"] for b in backends)


def workers_follow(build):
    report = ask(build, "show", "dataplane")
    workers = [w for w in report.get("dataplane", {}).get("workers", []) if w["active"]]
    return bool(workers) and all(w["acknowledged"] >= report["control"]["generation"] for w in workers)


def wait(condition, what):
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(path.read_text() for path in FOLDER.glob("*.log"))
            sys.exit(f"error: not within 30 s: {what}\n{logs}")
        time.sleep(0.1)


def measure(options):
    cpus = sorted(os.sched_getaffinity(0))
    (FOLDER / "ack.toml").write_text(configuration())
    processes = [start(cpus[:1], options.build / "controlplane/sluiced", FOLDER / "ack.toml", "--dir", FOLDER,
                       "--state", FOLDER / "state")]
    huge = ["--no-huge"] if options.no_huge else []
    processes.append(start(cpus, options.build / "dataplane/sluice-dataplane", "--dir", FOLDER, "--vdev", "net_null0",
                           "--cores", cpus[-1], *huge))
    try:
        wait(lambda: all_take_flows(options.build), "all backends take new flows")
        wait(lambda: workers_follow(options.build), "the worker follows")
        os.sched_setaffinity(0, cpus[:1])
        microseconds = []
        for change in range(options.changes):
            words = ("backend", "weight", f"s{change % SERVICES}/b{change * 7 % BACKENDS}", str(50 + change % 40))
            answer = ask(options.build, *words)
            if "ack_us" not in answer:
                sys.exit(f"error: {' '.join(words)}: {answer}")
            microseconds.append(answer["ack_us"])
        return microseconds
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


def main():
    options = arguments()
    options.build = options.build.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the default action would leave everything as it is
    FOLDER.mkdir()
    try:
        make_network()
        times = measure(options)
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=False)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.rmtree(pathlib.Path("/sys/fs/bpf/sluice") / str(FOLDER).strip("/").replace("/", "+"), ignore_errors=True)
    if options.json:
        print(json.dumps({"times_us": times}))  # in their order
    else:
        ordered = sorted(times)
        print(f"CLI command to every worker's acknowledgement, {SERVICES} services of {BACKENDS} backends, {len(ordered)} "
              f"weight changes: median {statistics.median(ordered) / 1e3:.2f} ms, "
              f"p99 {ordered[int(len(ordered) * 0.99)] / 1e3:.2f} ms, worst {ordered[-1] / 1e3:.2f} ms")


if __name__ == "__main__":
    main()
