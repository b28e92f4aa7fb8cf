#!/usr/bin/python3
"""From a health change that sluiced has seen to every worker's acknowledgement: the real sluiced and sluice-dataplane, 100
services of 100 backends (or others), each checked by a TCP connect every 5 seconds.

Backends fail here and there, each found out by its own check, and come back. The time is sluiced's own (`since_change_us` of
its generation_acknowledged events): from the end of the check that changed a backend's health to the last worker's
acknowledgement, the build of the lookup table (65,537 slots) included. The worker polls a net_null port that always has packets,
pinned to the last CPU; everything else runs on the first, the checks of all the others too; what would be other machines
(the backends, the watcher) only while sluiced sleeps. Needs root: the backends are addresses of a network namespace of this
script's own.

  perf/health_change.py BUILD [--changes N] [--services N] [--backends N] [--interval-s S] [--no-huge] [--json]
"""

import argparse
import json
import os
import pathlib
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time

AT_ONCE = 20  # backends that fail, or come back, within one interval
NAME = f"sluice-change-{os.getpid()}"
BALANCER, FARM = f"{NAME}-lb", f"{NAME}-be"
FOLDER = pathlib.Path("/dev/shm") / NAME
SERVER = "import socket\ns = socket.create_server(('0.0.0.0', 80), backlog=4096)\nwhile True: s.accept()[0].close()\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--changes", type=int, default=400)
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--backends", type=int, default=100, help="of each service")
    parser.add_argument("--interval-s", type=int, default=5, help="of the checks")
    parser.add_argument("--no-huge", action="store_true", help="sluice-dataplane without hugepages")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def address(service, backend):
    return f"10.50.{service + 1}.{backend + 1}"


def configuration(options):
    lines = []
    for s in range(options.services):
        lines += ["[[service]]", f'name = "s{s}"', f'vip = "203.0.113.{s + 1}"', "port = 80", 'protocol = "tcp"',
                  'forward = "ipip"', f'health = {{ type = "tcp", interval = "{options.interval_s}s", timeout = "1s", rise = 1, fall = 1 }}']
        for b in range(options.backends):
            lines += ["[[service.backend]]", f'name = "b{b}"', f'address = "{address(s, b)}"']
    return "\n".join(lines) + "\n"


def ip(netns, *lines):
    subprocess.run(["ip", "-netns", netns, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def make_network(options):
    for netns in (BALANCER, FARM):
        subprocess.run(["ip", "netns", "add", netns], check=True)
    subprocess.run(["ip", "link", "add", "eth0", "netns", BALANCER, "type", "veth", "peer", "name", "eth0", "netns", FARM],
                   check=True)
    ip(FARM, "link set lo up", "link set eth0 address 02:00:00:00:00:02", "link set eth0 up", "addr add 10.50.0.2/16 dev eth0",
       "route add local 10.50.0.0/16 dev lo", "route add 10.50.0.1/32 dev eth0",
       *(f"route add local 10.50.{s + 1}.0/24 dev lo" for s in range(options.services)))
    ip(BALANCER, "link set lo up", "addr add 10.50.0.1/16 dev eth0", "link set eth0 up",
       *(f"neigh add {address(s, b)} lladdr 02:00:00:00:00:02 dev eth0 nud permanent"
         for s in range(options.services) for b in range(options.backends)))


def start(netns, cpus, *command, idle=False, output=None):
    def before():
        os.sched_setaffinity(0, cpus)
        if idle:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    inside = ["nsenter", f"--net=/run/netns/{netns}", *map(str, command)]
    with open(FOLDER / f"{pathlib.Path(str(command[0])).name}.log", "a", encoding="utf-8") as log:
        return subprocess.Popen(inside, stdout=output or log, stderr=log, text=True, preexec_fn=before)


def ask(build, *words):
    done = subprocess.run([build / "controlplane/sluice", "--dir", FOLDER, "--json", *words], capture_output=True, text=True,
                          check=False)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {}


def wait(condition, what):
    until = time.monotonic() + 90
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(path.read_text()[-2000:] for path in FOLDER.glob("*.log"))
            sys.exit(f"error: not within 90 s: {what}\n{logs}")
        time.sleep(0.5)


def backends_active(build):
    return sum(s["backends_active"] for s in ask(build, "show", "services").get("services", []))


def is_at_rest(options):
    """No generation within an interval: the checks have seen every backend as it is."""
    def generation():
        return ask(options.build, "show", "dataplane")["control"]["generation"]
    before = generation()
    time.sleep(options.interval_s)
    return generation() == before


def change(changes, failed):
    verb = "add" if failed else "del"
    ip(FARM, *(f"route {verb} unreachable {address(*changed)}/32 table local" for changed in changes))


def acknowledged_us(watch, enough, patience_s):
    """Of as many generations, or as many as come within two intervals: changes within 2 ms of each other share one."""
    times, until = [], time.monotonic() + patience_s
    while len(times) < enough and select.select([watch.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
        line = watch.stdout.readline()
        if not line:
            sys.exit("error: sluice watch ended")
        details = json.loads(line).get("details", {})
        if "since_change_us" in details:
            times.append(details["since_change_us"])
    return times


def measure(options):
    cpus = sorted(os.sched_getaffinity(0))
    (FOLDER / "change.toml").write_text(configuration(options))
    processes = [start(FARM, cpus[:1], "/usr/bin/python3", "-c", SERVER, idle=True)]
    try:
        huge = ["--no-huge"] if options.no_huge else []
        processes.append(start(BALANCER, cpus, options.build / "dataplane/sluice-dataplane", "--dir", FOLDER, "--vdev", "net_null0",
                               "--cores", cpus[-1], *huge))
        processes.append(start(BALANCER, cpus[:1], options.build / "controlplane/sluiced", FOLDER / "change.toml", "--dir", FOLDER,
                               "--state", FOLDER / "state"))
        wait(lambda: backends_active(options.build) == options.services * options.backends and is_at_rest(options), "all backends are up")
        os.sched_setaffinity(0, cpus[:1])
        watch = start(BALANCER, cpus[:1], options.build / "controlplane/sluice", "--dir", FOLDER, "watch", "--kind",
                      "generation_acknowledged", idle=True, output=subprocess.PIPE)
        processes.append(watch)
        time.sleep(1)  # it is connected
        microseconds = []
        at_once = min(AT_ONCE, options.backends)
        for turn in range(max(options.changes // at_once, 1)):
            changes = [((turn // 2 + 5 * i) % options.services, (turn // 2 * 7 + i) % options.backends) for i in range(at_once)]
            change(changes, failed=turn % 2 == 0)
            microseconds += acknowledged_us(watch, at_once, 2 * options.interval_s)
        return microseconds
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def main():
    options = arguments()
    options.build = options.build.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the default action would leave everything as it is
    FOLDER.mkdir()
    try:
        make_network(options)
        times = measure(options)
    finally:
        for netns in (BALANCER, FARM):
            subprocess.run(["ip", "netns", "del", netns], check=False)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.rmtree(pathlib.Path("/sys/fs/bpf/sluice") / str(FOLDER).strip("/").replace("/", "+"), ignore_errors=True)
    if options.json:
        print(json.dumps({"times_us": times}))
    else:
        ordered = sorted(times)
        print(f"health change seen to every worker's acknowledgement, {options.services} services of {options.backends} backends, {len(ordered)} "
              f"generations: median {statistics.median(ordered) / 1e3:.2f} ms, "
              f"p99 {ordered[int(len(ordered) * 0.99)] / 1e3:.2f} ms, worst {ordered[-1] / 1e3:.2f} ms")


if __name__ == "__main__":
    main()
