#!/usr/bin/python3
"""The I/O floor: what DPDK's own testpmd costs a packet, in cycles, between two null ports on one core.

testpmd in macswap mode does the least a forwarder can do: receive, touch the header, send. net_null receives and sends
without a wire. What the balancer's pipeline costs (perf/pipeline_bench.cc) comes on top of this. Needs root.

  perf/testpmd_floor.py --tsc-hz N [--repeats N] [--seconds N] [--no-huge] [--json]
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

BURST = 32  # testpmd's default
FRAME_BYTES = 64
MBUFS = 16384  # some of each port's rings and cache; 36 MiB


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tsc-hz", type=float, required=True, help="frequency of the time-stamp counter")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts")
    parser.add_argument("--seconds", type=int, default=1, help="of each repeat; one before them is to warm up")
    parser.add_argument("--no-huge", action="store_true", help="without hugepages (slower)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def command(no_huge, folder):
    memory = ["--no-huge", "-m", "256"] if no_huge else ["--in-memory", "-m", "128"]
    cores = sorted(os.sched_getaffinity(0))
    # The last core forwards, the first one (the same if there is but one) prints.
    lcores = f"(0)@{cores[0]},(1)@{cores[-1]}"
    eal = ["--lcores", lcores, "--no-pci", "--no-telemetry", "--file-prefix", os.path.basename(folder)]
    ports = ["--vdev", f"net_null0,size={FRAME_BYTES}", "--vdev", f"net_null1,size={FRAME_BYTES}"]
    app = ["--forward-mode=macswap", "--nb-cores=1", f"--burst={BURST}"]
    app += [f"--total-num-mbufs={MBUFS}", "--stats-period=1"]
    return ["dpdk-testpmd", *eal, *memory, *ports, "--", *app]


def packets_per_second(lines):
    """Each second's sum over both ports: every packet sent was received, swapped and sent once."""
    ports = {}
    for line in lines:
        if found := re.search(r"NIC statistics for port (\d+)", line):
            port = found.group(1)
        elif found := re.search(r"Tx-pps:\s+(\d+)", line):
            ports[port] = int(found.group(1))
            if len(ports) == 2:
                yield sum(ports.values())
                ports = {}


def measure(seconds, no_huge):
    """Packets of each of `seconds` seconds, the first one left out."""
    with tempfile.TemporaryDirectory(prefix="sluice-floor-") as folder:
        testpmd = subprocess.Popen(
            command(no_huge, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed, rates = [], []
        try:
            for rate in packets_per_second(printed.append(line) or line for line in testpmd.stdout):
                rates.append(rate)
                if len(rates) == seconds + 2:
                    break
        finally:
            testpmd.send_signal(signal.SIGINT)
            try:
                testpmd.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                testpmd.kill()
                testpmd.communicate()
    # The first figure is of before the start, the second one of warming up.
    if len(rates) < seconds + 2:
        sys.exit("error: testpmd ended early; its last words:\n" + "".join(printed[-5:]) + "  try: " + remedy(no_huge))
    return rates[2:]


def remedy(no_huge):
    return "perf/testpmd_floor.py as root" if no_huge else "perf/testpmd_floor.py --no-huge, or: scripts/bench.sh"


def main():
    options = arguments()
    if shutil.which("dpdk-testpmd") is None:
        sys.exit("error: dpdk-testpmd is missing\n  try: apt-get install dpdk-dev")
    rates = measure(options.repeats * options.seconds, options.no_huge)
    # Seconds of one repeat together.
    cycles = [options.tsc_hz * options.seconds / sum(rates[first:first + options.seconds])
              for first in range(0, len(rates), options.seconds)]
    if options.json:
        print(json.dumps({"cycles": cycles}))
    else:
        middle = statistics.median(cycles)
        print(f"{options.tsc_hz / middle / 1e6:.1f} Mpps, {middle:.1f} cycles a packet, "
              f"spread {100 * (max(cycles) - min(cycles)) / middle:.1f} %")


if __name__ == "__main__":
    main()
