#!/usr/bin/python3
"""What the balancer adds to a request's latency: the real sluice-dataplane (AF_XDP on a veth, its worker pinned to the last CPU),
sluiced with its checks, nginx, and closed loops of small requests over TCP connections that stay open.

The same client asks the same nginx on the same network by several paths, in short rounds that take turns:

  l2dsr             client - router - switch - Sluice - switch - backend
  ipip              the same, in a tunnel that the backend takes apart (sluice-decap)
  direct, direct+decap    without the second hop: the router sends to the backend; the partners of l2dsr and of ipip
  testpmd           DPDK's testpmd in Sluice's place, AF_XDP too and on the same CPU (whichever is not asked is stopped): the floor
  kernel            the balancer's host as a plain router, in Sluice's place

Answers never come through the balancer. A difference is that of two rounds of the same turn, so a disturbance of the machine
meets both; of the turns the median is printed, with the smallest and the largest. Needs root.

  perf/added_latency.py BUILD [--rounds N] [--requests N] [--connections N] [--think-us N] [--quick] [--no-huge] [--json]
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/system"))
# pylint: disable=wrong-import-position
from fabric import Fabric, program
from lab import LabError, ensure_bpffs, wait_until
from sluice import Balancer, service

# Path: the address asked, and where the router sends it (l2dsr and ipip are VIPs of Sluice: to the balancer, as all VIPs).
PATHS = {"direct": ("203.0.113.50", "10.0.1.12"), "l2dsr": ("203.0.113.10", None), "testpmd": ("203.0.113.80", "10.0.1.20"),
         "kernel": ("203.0.113.60", "10.0.1.10"), "direct+decap": ("203.0.113.70", "10.0.1.11"), "ipip": ("203.0.113.20", None)}
OF_SLUICE = ("l2dsr", "ipip")
BESIDE = (("l2dsr", "direct"), ("ipip", "direct+decap"), ("testpmd", "direct"), ("l2dsr", "testpmd"), ("kernel", "direct"))
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
HEALTH = '{ type = "http", path = "/health", interval = "1s", timeout = "500ms" }'
CONFIG = (service("direct", "203.0.113.10", "l2dsr", {"b2": ("10.0.1.12", 100)}, health=HEALTH)
          + service("tunnel", "203.0.113.20", "ipip", {"b1": ("10.0.1.11", 100)}, health=HEALTH))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--rounds", type=int, default=20, help="of each path")
    parser.add_argument("--requests", type=int, default=10000, help="of each round")
    parser.add_argument("--connections", type=int, default=4, help="at once, each a closed loop")
    parser.add_argument("--think-us", type=int, default=500, help="mean time from an answer to that connection's next request")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1000 requests: does it work?")
    parser.add_argument("--no-huge", action="store_true", help="sluice-dataplane without hugepages")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests = 3, 1000
    return options


def prepare(fabric):
    """What the paths need beyond the fabric: addresses of the backends, routes, and a host `lb` that forwards."""
    fabric.attach_decap("b1")
    for backend, paths in {"b1": ("direct+decap",), "b2": ("direct", "testpmd", "kernel")}.items():
        fabric.hosts[backend].ip(*(f"addr add {PATHS[path][0]}/32 dev lo" for path in paths))
        fabric.start_nginx(backend)
    fabric.hosts["net"].ip(*(f"route add {vip}/32 via {hop}" for vip, hop in PATHS.values() if hop))
    # It sends back where it came from, and shall not tell the router about the shorter way.
    fabric.hosts["lb"].sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__all__send_redirects=0,
                              net__ipv4__conf__eth0__send_redirects=0)
    fabric.hosts["lb"].ip(f"route add {PATHS['kernel'][0]}/32 via 10.0.1.12")


def start_testpmd(fabric, no_huge):
    """On a host of its own, at the switch as the balancer is: what it receives goes to backend b2."""
    fabric.add_host("floor")
    fabric._connect_to_switch("floor", 20)  # pylint: disable=protected-access
    fabric.hosts["net"].run("ethtool", "-K", "floor", "tx", "off", "tso", "off", "gso", "off", "gro", "off")
    fabric.hosts["net"].ip(f"neigh add 10.0.1.20 lladdr {fabric.hosts['floor'].mac()} nud permanent dev br0")
    memory = ["--no-huge", "-m", "256"] if no_huge else ["--in-memory", "-m", "128"]
    eal = ["--lcores", f"(0)@0,(1)@{os.cpu_count() - 1}", "--no-pci", "--no-telemetry", "--file-prefix", fabric.name, *memory]
    app = ["--forward-mode=mac", f"--eth-peer=0,{fabric.hosts['b2'].mac()}", "--port-topology=loop", "--nb-cores=1",
           "--total-num-mbufs=16384", "--stats-period=3600"]
    testpmd = fabric.hosts["floor"].start("testpmd", ["dpdk-testpmd", *eal, "--vdev", "net_af_xdp0,iface=eth0", "--", *app],
                                          cpus=range(os.cpu_count()))
    probe = [program("perf/latency_client"), PATHS["testpmd"][0], "80", "1", "1", "0", "0"]
    wait_until(lambda: testpmd.expect_running() or fabric.hosts["c1"].run(*probe, check=False).returncode == 0, "testpmd forwards")
    return testpmd


def busy_jiffies(cpu):
    """(not idle, all) of a CPU since the machine started."""
    with open("/proc/stat", encoding="utf-8") as stat:
        fields = next(line for line in stat if line.startswith(f"cpu{cpu} ")).split()
    ticks = [int(field) for field in fields[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def one_round(fabric, balancer, testpmd, path, options):
    """Percentiles in microseconds, and how busy the CPU was that all but the balancer share."""
    # Both poll, on one CPU.
    for process, runs in ((balancer.dataplane, path != "testpmd"), (testpmd, path == "testpmd")):
        process.expect_running()
        process.signal(signal.SIGCONT if runs else signal.SIGSTOP)
    each = options.requests // options.connections
    warm_up = max(each // 20, 10)
    command = [program("perf/latency_client"), PATHS[path][0], "80", options.connections, each, warm_up, options.think_us]
    forwarded, busy = balancer.accounting()["forwarded"], busy_jiffies(0)
    result = fabric.hosts["c1"].run(*command, timeout=300)
    forwarded, busy_now = balancer.accounting()["forwarded"] - forwarded, busy_jiffies(0)
    times_us = sorted(int(line) / 1000 for line in result.stdout.split())
    if len(times_us) != each * options.connections:
        raise LabError(f"{path}: {len(times_us)} times of {each * options.connections} requests")
    # Through Sluice at least one packet a request, elsewhere none.
    if forwarded < len(times_us) if path in OF_SLUICE else forwarded > 0:
        raise LabError(f"{path}: Sluice forwarded {forwarded} packets for {len(times_us)} requests")
    figures = {name: times_us[min(int(len(times_us) * rank), len(times_us) - 1)] for name, rank in PERCENTILES.items()}
    return figures | {"busy": (busy_now[0] - busy[0]) / max(busy_now[1] - busy[1], 1)}


def measure(options):
    with Fabric(f"sluice-latency-{os.getpid()}") as fabric:
        prepare(fabric)
        balancer = Balancer(fabric, CONFIG).start()
        testpmd = start_testpmd(fabric, options.no_huge)
        rounds = []
        for number in range(options.rounds):
            # Each before the other as often as after it.
            order = list(PATHS) if number % 2 == 0 else list(reversed(PATHS))
            try:
                rounds.append({path: one_round(fabric, balancer, testpmd, path, options) for path in order})
            finally:  # what is stopped cannot end
                testpmd.signal(signal.SIGCONT)
                balancer.dataplane.signal(signal.SIGCONT)
        return rounds


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarized(rounds, options):
    figures = (*PERCENTILES, "busy")
    return {
        "connections": options.connections, "think_us": options.think_us, "rounds": options.rounds, "requests": options.requests,
        "us": {path: {name: summary([r[path][name] for r in rounds]) for name in figures} for path in PATHS},
        "added_us": {f"{path} to {beside}": {name: summary([r[path][name] - r[beside][name] for r in rounds])
                                             for name in PERCENTILES} for path, beside in BESIDE},
    }


def table(result):
    def cell(figure):
        return f"{figure['median']:.0f} ({figure['min']:.0f} to {figure['max']:.0f})"

    lines = [f"{result['connections']} connections, {result['think_us']} us of thinking between requests; {result['rounds']} rounds of "
             f"{result['requests']} requests a path; us: median of the rounds (smallest to largest)", "",
             "| path | p50 | p99 | p99.9 | CPU 0 busy |", "| --- | ---: | ---: | ---: | ---: |"]
    for path, figures in result["us"].items():
        lines.append(f"| {path} | {' | '.join(cell(figures[name]) for name in PERCENTILES)} | {figures['busy']['median']:.0%} |")
    for paths, figures in result["added_us"].items():
        lines.append(f"| **added by {paths}** | {' | '.join(cell(figures[name]) for name in PERCENTILES)} | |")
    return "\n".join(lines)


def main():
    options = arguments()
    if shutil.which("dpdk-testpmd") is None:
        sys.exit("error: dpdk-testpmd is missing\n  try: apt-get install dpdk-dev")
    os.environ["SLUICE_BUILD"] = str(options.build.resolve())
    if options.no_huge:
        os.environ["SLUICE_NO_HUGE"] = "1"
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))  # Lab sees to SIGTERM
    ensure_bpffs()
    try:
        result = summarized(measure(options), options)
    except LabError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
