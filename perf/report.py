#!/usr/bin/python3
"""Runs every benchmark and prints one table, in cycles of the time-stamp counter, beside the testpmd floor.

Started by scripts/bench.sh, which builds and sets the machine up.

  perf/report.py BUILD [--json FILE] [--filter REGEX] [--repeat N] [--min-time S] [--floor-seconds N] [--no-huge]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BENCHMARKS = ["pipeline", "hash", "maglev", "publish"]
PER_PACKET = ("pipeline/", "flow_hash/", "lookup_slot", "checksum/")  # the others are per table or change


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--json", metavar="FILE", help="write the rows: name, cycles, ns, per_second, floor_cycles, ratio")
    parser.add_argument("--programs", metavar="BUILD", type=pathlib.Path,
                        help="build folder of the programs: also measure from a command to its acknowledgement")
    parser.add_argument("--filter", default=".", help="only benchmarks that match this regular expression")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each; the median counts")
    parser.add_argument("--min-time", type=float, default=0.2, help="seconds of each run at least")
    parser.add_argument("--floor-seconds", type=int, default=5, help="how long testpmd runs; 0: without the floor")
    parser.add_argument("--no-huge", action="store_true", help="testpmd without hugepages (slower)")
    return parser.parse_args()


def run_benchmark(options, name):
    """(tsc_hz, rows) of one executable; a row is the median of its repetitions."""
    command = [
        options.build / "perf" / f"{name}_bench",
        f"--benchmark_filter={options.filter}",
        f"--benchmark_repetitions={options.repeat}",
        f"--benchmark_min_time={options.min_time}",
        "--benchmark_report_aggregates_only=true",
        "--benchmark_format=json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {name}_bench ended with status {done.returncode}\n{done.stderr}")
    if not done.stdout.strip():
        return None, []  # the filter leaves none
    result = json.loads(done.stdout)
    rows = [row for row in result["benchmarks"] if row.get("aggregate_name", "median") == "median"]
    return float(result["context"]["tsc_hz"]), rows


def run_floor(options, tsc_hz):
    command = [HERE / "testpmd_floor.py", "--json", "--tsc-hz", str(tsc_hz), "--seconds", str(options.floor_seconds)]
    command += ["--no-huge"] if options.no_huge else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def run_acknowledge(options, tsc_hz):
    """A row: from a CLI command to the workers' acknowledgement, with the real processes."""
    command = [HERE / "acknowledge.py", options.programs, "--json"] + (["--no-huge"] if options.no_huge else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: acknowledge.py ended with status {done.returncode}")
    result = json.loads(done.stdout)
    seconds = result["median_us"] / 1e6
    return {"name": result["name"], "cycles": seconds * tsc_hz, "ns": seconds * 1e9, "per_second": 1 / seconds,
            "floor_cycles": None, "ratio": None, "p99_ns": result["p99_us"] * 1e3, "worst_ns": result["max_us"] * 1e3}


def to_row(benchmark, tsc_hz, floor):
    cycles = benchmark["cycles"]
    per_packet = benchmark["run_name"].startswith(PER_PACKET)
    beside = floor["cycles"] if floor and per_packet else None
    return {
        "name": benchmark["run_name"],
        "cycles": cycles,
        "ns": cycles / tsc_hz * 1e9,
        "per_second": tsc_hz / cycles,
        "floor_cycles": beside,
        "ratio": cycles / beside if beside else None,
    }


def short(number):
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number:.1f} "


def print_table(rows, floor):
    widths = max(len(row["name"]) for row in rows)
    print(f"{'':{widths}}  {'cycles':>10}  {'ns':>10}  {'per second':>10}  {'x floor':>7}")
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        figures = f"{short(row['cycles']):>10}  {short(row['ns']):>10}  {short(row['per_second']):>10}"
        tail = f"  p99 {short(row['p99_ns'])}, worst {short(row['worst_ns'])}" if "p99_ns" in row else ""
        print(f"{row['name']:{widths}}  {figures}  {ratio:>7}{tail}")
    if floor:
        print(f"\nfloor: {floor['name']}, {floor['cycles']:.1f} cycles a packet")
    load = os.getloadavg()[0]
    if load > 1.5:
        print(f"The load average is {load:.1f}: others use this machine, and the figures are too high.", file=sys.stderr)


def main():
    options = arguments()
    results = [run_benchmark(options, name) for name in BENCHMARKS]
    results = [(tsc_hz, rows) for tsc_hz, rows in results if rows]
    if not results:
        sys.exit(f"error: no benchmark matches '{options.filter}'")
    tsc_hz = results[0][0]
    floor = run_floor(options, tsc_hz) if options.floor_seconds > 0 else None
    rows = [to_row(benchmark, tsc_hz, floor) for _, benchmarks in results for benchmark in benchmarks]
    if options.programs:
        rows.append(run_acknowledge(options, tsc_hz))
    if floor:
        own = {"ns": floor["cycles"] / tsc_hz * 1e9, "floor_cycles": floor["cycles"], "ratio": 1.0}
        rows.insert(0, {**floor, **own})
    print_table(rows, floor)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
