#!/usr/bin/python3
"""End to end without a NIC: the real sluice-dataplane and dpdk-testpmd on the same port; one core is theirs.

The generator (README.md) is preloaded into each in turn; packets go by pointer through two rings. First testpmd's macswap,
the floor; then, for each number of flows, the balancer with a real sluiced. Keep the machine idle. Needs root: the backends
are neighbours in a network namespace of this script's own.

  throughput  as fast as the target goes; median of the repeats
  rfc2544     the highest rate at which a trial loses nothing, by binary search (RFC 2544 26.1)
  mlr         RFC 9971: the highest rates that lose nothing, and at most 0.5 %, in one search
  latency     at 10, 50 and 90 % of the rate that lost nothing

  perf/pktgen/pktgen.py BUILD [--modes throughput,mlr] [--flows 10000,1000000] [--frame imix] [--json FILE]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from control import PktgenError
from machine import BASE_BYTES, Cpus, hugepages
from measure import Measurement, say
from targets import Balancer, MacSwap

MODES = ("throughput", "rfc2544", "mlr", "latency")
FLOWS_PER_WORKER_MIN = 1 << 18  # src/size_limits.h
FLOW_TABLE_BYTES = 16           # a flow
QUIET_PER_SECOND = 30           # interruptions of the target's worker; more: others use its CPU
CLOSE_CYCLES = 700              # two cores of one L3 cache; more: of two


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="build folder, with the programs and libsluice_pktgen.so")
    parser.add_argument("--modes", default=",".join(MODES), help="some of: %(default)s")
    parser.add_argument("--flows", default="1000000", help="numbers of flows, one run each (default: %(default)s)")
    parser.add_argument("--flows-max", type=int, help="sluice-dataplane's --flows-max; default: as many as there are flows")
    parser.add_argument("--order", choices=("uniform", "zipf"), default="uniform", help="which flow the next packet is of")
    parser.add_argument("--churn", type=float, default=0.0, help="share of packets that begin a flow in an old one's place")
    parser.add_argument("--syn-flood", type=float, default=0.0, help="share of packets that are SYNs never followed up")
    parser.add_argument("--frame", default="64", help="64 to 1518 bytes, check sequence included, or imix (7:4:1)")
    parser.add_argument("--ipv6", action="store_true")
    parser.add_argument("--forward", choices=("ipip", "l2dsr"), default="ipip")
    parser.add_argument("--backends", type=int, default=100, help="of each service")
    parser.add_argument("--services", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="of the throughput trial")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a throughput and a latency trial")
    parser.add_argument("--trial-seconds", type=float, default=1.0, help="of the searches' final trials")
    parser.add_argument("--initial-seconds", type=float, default=0.25, help="of MLR's first trials")
    parser.add_argument("--wait-close", type=float, default=20.0, metavar="S",
                        help="how long to wait for the two cores to share a cache (a virtual machine's are moved)")
    parser.add_argument("--no-floor", action="store_true", help="without testpmd")
    parser.add_argument("--no-huge", action="store_true", help="without hugepages (slower)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {machine, results}")
    options = parser.parse_args()
    options.modes = options.modes.split(",")
    if unknown := set(options.modes) - set(MODES):
        parser.error(f"--modes: no mode {', '.join(sorted(unknown))}")
    options.flows = [int(text) for text in options.flows.split(",")]
    options.frame = options.frame if options.frame == "imix" else int(options.frame)
    options.build = options.build.resolve()
    return options


def traffic_of(options, flows):
    return {"flows": flows, "order": options.order, "churn": options.churn, "syn_flood": options.syn_flood,
            "frame": options.frame}


def prefix_of(options, forward):
    """pktgen/ipip, with what is not the usual traffic named."""
    parts = ["pktgen", forward]
    parts += ["v6"] if options.ipv6 and forward != "macswap" else []
    parts += [str(options.frame)] if options.frame != 64 else []
    parts += [options.order] if options.order != "uniform" else []
    parts += [f"churn{options.churn:g}"] if options.churn else []
    parts += [f"flood{options.syn_flood:g}"] if options.syn_flood else []
    return "/".join(parts)


def flows_max_of(options, flows):
    return max(FLOWS_PER_WORKER_MIN, options.flows_max or flows)


# ---- Core distance ---------------------------------------------------------------------------------------------------


def core_distance(options, cpus):
    """Cycles of a cache line's round trip between the generator's core and the target's. Nothing else may run there."""
    command = [options.build / "perf/pktgen/core-distance", str(cpus.generator), str(cpus.worker)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60,
                          preexec_fn=lambda: os.sched_setaffinity(0, cpus.all))
    if done.returncode != 0:
        raise PktgenError(done.stderr.strip())
    return int(done.stdout)


def wait_close(options, cpus):
    """A virtual machine's CPUs are moved about: waits, for a time, until they share a cache."""
    until = time.monotonic() + options.wait_close
    while (cycles := core_distance(options, cpus)) > CLOSE_CYCLES and time.monotonic() < until:
        time.sleep(1)
    return cycles


def run_near(options, cpus, what, run, attempts):
    """run(), again when the CPUs were moved meanwhile: (rows, faults) with the distance in each row."""
    for attempt in range(attempts):
        before = wait_close(options, cpus)
        say(f"{what}; the cores are {before} cycles apart")
        rows, faults = run()
        after = core_distance(options, cpus)
        if max(before, after) <= CLOSE_CYCLES or before > CLOSE_CYCLES or attempt == attempts - 1:
            break
        say(f"the cores came to be {after} cycles apart: once more")
    for row in rows:
        row["core_distance_cycles"] = max(before, after)
    return rows, faults


# ---- Runs ------------------------------------------------------------------------------------------------------------


def run_floor(options, cpus, no_huge):
    """([row], faults) of testpmd."""
    with MacSwap(options.build, cpus, no_huge) as target:
        measurement = Measurement(target, prefix_of(options, "macswap"), traffic_of(options, min(options.flows)))
        return [measurement.throughput(options.repeat, options.seconds)], measurement.faults


def run_balancer(options, cpus, no_huge, flows, modes):
    balancer = Balancer(options.build, cpus, no_huge, flows_max=flows_max_of(options, flows), backends=options.backends,
                        services=options.services, forward=options.forward, ipv6=options.ipv6)
    rows = []
    with balancer as target:
        measurement = Measurement(target, prefix_of(options, options.forward), traffic_of(options, flows))
        measurement.fill()
        started, interruptions = time.monotonic(), target.interruptions()
        # The searches need to know where to begin, so this one is always done.
        throughput = measurement.throughput(options.repeat if "throughput" in modes else 1, options.seconds)
        if "throughput" in modes:
            rows.append(throughput)
        hz, max_load = throughput["tsc_hz"], 1.3 * throughput["per_second"]
        lossless = 0.0
        if "rfc2544" in modes:
            say("RFC 2544 binary search")
            rows.append(measurement.rfc2544(max_load, options.trial_seconds, hz))
            lossless = rows[-1]["per_second"]
        if "mlr" in modes:
            say("RFC 9971 search")
            rows += measurement.mlr(max_load, options.initial_seconds, options.trial_seconds, hz)
            lossless = rows[-2]["per_second"]
        for row in rows:
            row["name"] += f"/{flows}"
        if "latency" in modes:
            # Without a search before it, or one that found nothing: of what went through unpaced.
            rows += measurement.latency(lossless or throughput["per_second"], options.seconds)
        per_second = (target.interruptions() - interruptions) / (time.monotonic() - started)
        for row in rows:
            row.update(flows=flows, generator_limited=measurement.generator_limited)
            row.setdefault("interruptions_per_second", per_second)
        return rows, measurement.faults


def run_all(options):
    cpus = Cpus()
    os.sched_setaffinity(0, {cpus.rest})
    wanted = BASE_BYTES + 2 * FLOW_TABLE_BYTES * max(flows_max_of(options, flows) for flows in options.flows)
    with hugepages(0 if options.no_huge else wanted) as could_be_had:
        no_huge = options.no_huge or not could_be_had
        if no_huge and not options.no_huge:
            say(f"{wanted >> 20} MiB of hugepages could not be had: going on without (slower)")
        rows, faults = ([], []) if options.no_floor else run_near(
            options, cpus, "testpmd macswap", lambda: run_floor(options, cpus, no_huge), 3)
        floor = rows[0] if rows else None
        for flows in options.flows:
            # The throughput is what is compared with the floor: a run of its own, short enough to be done again.
            for modes in ([m for m in options.modes if m == "throughput"], [m for m in options.modes if m != "throughput"]):
                if modes:
                    more_rows, more_faults = run_near(
                        options, cpus, f"sluice {options.forward}, {flows} flows: {', '.join(modes)}",
                        lambda f=flows, m=modes: run_balancer(options, cpus, no_huge, f, m),
                        3 if "throughput" in modes else 1)
                    rows, faults = rows + more_rows, faults + more_faults
    for row in rows:
        if floor and row["name"].find("/throughput") > 0:
            row.update(floor_cycles=floor["cycles"], ratio=row["cycles"] / floor["cycles"],
                       above_floor_cycles=row["cycles"] - floor["cycles"])
    return rows, faults, "none" if no_huge else "2 MiB"


# ---- Report ----------------------------------------------------------------------------------------------------------


def machine(rows, pages):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="ascii", errors="replace")
                if line.startswith("model name")), "?")
    here = Path(__file__).resolve().parent
    commit = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    hz = next((row["tsc_hz"] for row in rows if row.get("tsc_hz")), None)
    return {"cpu": cpu, "cpus": os.cpu_count(), "tsc_hz": hz, "hugepages": pages, "kernel": os.uname().release,
            "commit": commit.stdout.strip(), "load_average": os.getloadavg()[0]}


def text_of(row):
    """The last column: what is particular to the row."""
    if "limited_by" in row:
        above = f", {row['above_floor_cycles']:.1f} above the floor" if row.get("above_floor_cycles") else ""
        clock = f"{row['tsc_cycles_per_packet']:.1f} by the clock"
        limit = "generator-limited" if row["limited_by"] == "generator" else clock
        return f"spread {100 * row['spread']:.1f} %, {limit}{above}"
    if "p50_ns" in row:
        latencies = ", ".join(f"{key.replace('_', '.')} {row[key + '_ns'] / 1e3:.1f}"
                              for key in ("p50", "p99", "p99_9", "p99_99", "max"))
        return f"us: {latencies}; {row['lost']} lost"
    found = "" if row["per_second"] else "nothing found: every trial lost packets; "
    if "regular" in row:
        bounds = f"{row['lower'] / 1e6:.3f} to {row['upper'] / 1e6:.3f} Mpps"
        return f"{found}{bounds}{'' if row['regular'] else ' (irregular result)'}, {row['trials']} trials"
    return f"{found}{row['trials']} trials of {row['trial_s']:g} s"


def print_table(rows):
    width = max(len(row["name"]) for row in rows)
    print(f"{'':{width}}  {'cycles':>7}  {'ns':>8}  {'Mpps':>7}  {'x floor':>7}")
    for row in rows:
        cells = [f"{row[key]:.{digits}f}" if row.get(key) is not None else ""
                 for key, digits in (("cycles", 1), ("ns", 1), ("ratio", 2))]
        figures = f"{cells[0]:>7}  {cells[1]:>8}  {row['per_second'] / 1e6:>7.3f}  {cells[2]:>7}"
        print(f"{row['name']:{width}}  {figures}  {text_of(row)}")
    print("\ncycles: of the target's own core for a packet, in turns of its loop with packets; for searches, by the clock")
    distances = [row["core_distance_cycles"] for row in rows]
    print(f"a cache line from the generator's core to the target's and back: {min(distances)} to {max(distances)} cycles")
    if max(distances) > CLOSE_CYCLES:
        print("WARNING: not in every row do the two cores share a cache. Handing packets over costs more then: compare "
              "rows of one distance only")
    busiest = max((row.get("interruptions_per_second", 0.0) for row in rows), default=0.0)
    if busiest > QUIET_PER_SECOND:
        print(f"WARNING: others used the target's CPU, {busiest:.0f} interruptions a second: cycles and losses are too high")
    if any(row.get("limited_by") == "generator" for row in rows):
        print("generator-limited: the target waited for packets, and could do more than this rate; its cycles are its own "
              "all the same")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    if os.geteuid() != 0:
        sys.exit("error: pktgen.py needs root\n  try: sudo perf/pktgen/pktgen.py " + " ".join(sys.argv[1:]))
    try:
        rows, faults, pages = run_all(options)
    except PktgenError as error:
        sys.exit(f"error: {error}")
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(rows, pages), "results": rows}, indent=1) + "\n")
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
