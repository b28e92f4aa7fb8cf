#!/usr/bin/env python3
"""The demo behind scripts/demo.sh: builds the network, runs the steps, judges what it sees.

Every step compares something observed with what it should be; one that differs makes the exit status 1.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "system"))
from demo_steps import STEPS  # noqa: E402
from fabric import BACKENDS, Fabric, build_folder, program  # noqa: E402
from lab import LabError, remove_namespaces  # noqa: E402
from sluice import Balancer, on_fabric, remove_instance, service  # noqa: E402

NAME = "sluice-demo"
FOLDER = Path("/tmp") / NAME
WEIGHTS = {"b1": 100, "b2": 200, "b3": 300}
CONFIG = "".join((
    service("web", "203.0.113.10", "ipip", on_fabric(WEIGHTS)),
    service("direct", "203.0.113.20", "l2dsr", on_fabric()),
    service("six", "2001:db8:100::10", "ipip", on_fabric(ipv6=True)),
))

PICTURE = """
     client c1      client c2              198.51.100.2, .130 and 2001:db8:c1::2, c2::2
          \\          /
           router and switch               sends 203.0.113.0/24 and 2001:db8:100::/64 to the balancer
          /    |    |    \\
        lb    b1   b2    b3                10.0.1.10 and .11 .12 .13; nginx on b1, b2, b3
   web     203.0.113.10       ipip   b1 b2 b3 with weights 100, 200, 300
   direct  203.0.113.20       l2dsr  b1 b2 b3
   six     2001:db8:100::10   ipip   b1 b2 b3, IPv6 in IPv6
"""

TRY_NEXT = """
The demo is still running. What to try next:

  {sluice} show backends
  {sluice} show dataplane
  {sluice} explain tcp 198.51.100.2:40000 203.0.113.10:80
  {sluice} backend drain web/b2          (ready, maint; weight web/b2 50)
  sudo nsenter --net=/run/netns/{name}-c1 curl -i http://203.0.113.10/
  sudo nsenter --net=/run/netns/{name}-c1 wrk -c 50 -d 10 http://203.0.113.10/
  sudo nsenter --net=/run/netns/{name}-lb tcpdump -ni eth0     (sees the kernel's packets only: no VIP traffic)
  sudo nsenter --net=/run/netns/{name}-b1 {build}/bpf/sluice-decap status eth0

Configuration and logs are in {folder}. To stop it:

  sudo ./scripts/demo.sh --stop
"""


class Demo:
    """What the steps share: the network, the balancer, and the findings."""

    def __init__(self, started):
        self.started = started
        self.findings = []
        self.fabric = self.balancer = None
        self.decap = program("bpf/sluice-decap")

    def say(self, text):
        print(f"[{time.time() - self.started:6.1f}s] {text}", flush=True)

    def note(self, text):
        for line in text.rstrip().splitlines():
            print(f"          {line}", flush=True)

    def finding(self, name, observed, expected, ok):
        self.findings.append({"name": name, "observed": observed, "expected": expected, "ok": bool(ok)})
        self.say(f"{'ok  ' if ok else 'FAIL'} {name}: {observed}")
        if not ok:
            self.note(f"expected: {expected}")

    def start(self):
        self.say("network: namespaces, cables, three nginx, decapsulation on the backends")
        print(PICTURE, flush=True)
        self.fabric = Fabric(NAME, FOLDER)
        for backend in BACKENDS:
            self.fabric.attach_decap(backend)
            self.fabric.start_nginx(backend)
        self.balancer = Balancer(self.fabric, CONFIG)
        self.say("balancer: sluice-dataplane and sluiced")
        self.balancer.start_dataplane()
        self.balancer.start_sluiced()
        self.note(" ".join(self.balancer.dataplane.command[2:]))
        self.note(" ".join(self.balancer.sluiced.command[2:]))
        self.balancer.wait_ready()

    def table(self):
        width = max(len(finding["name"]) for finding in self.findings)
        print(f"\n  {'step':<{width}}        observed")
        for finding in self.findings:
            print(f"  {finding['name']:<{width}}  {'ok  ' if finding['ok'] else 'FAIL'}  {finding['observed']}")
        bad = [finding for finding in self.findings if not finding["ok"]]
        good = len(self.findings) - len(bad)
        print(f"\n{good} of {len(self.findings)} observations are what they should be", flush=True)
        return not bad


def stop():
    remove_namespaces(NAME)
    remove_instance(NAME)
    shutil.rmtree(FOLDER, ignore_errors=True)


def run_demo(arguments):
    demo = Demo(arguments.started)
    status = 1
    try:
        demo.start()
        for step in STEPS:
            step(demo)
        status = 0 if demo.table() else 1
    except LabError as error:
        demo.finding("the demo runs to its end", str(error), "no step that cannot be made", False)
    if arguments.json:
        arguments.json.write_text(json.dumps({"v": 1, "steps": demo.findings}, indent=2) + "\n")
        demo.say(f"summary: {arguments.json}")
    if arguments.keep and demo.balancer is not None:
        demo.fabric.keep()
        print(TRY_NEXT.format(sluice=f"sudo {build_folder()}/controlplane/sluice --dir {demo.balancer.directory}",
                              name=NAME, folder=FOLDER, build=build_folder()))
    elif demo.fabric is not None:
        demo.fabric.close()
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--started", type=float, default=time.time(), help="the clock that progress lines count from")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.stop:
        stop()
        return 0
    return run_demo(arguments)


if __name__ == "__main__":
    sys.exit(main())
