#!/usr/bin/python3
"""Runs the benchmarks, each beside its floor, and prints one table; writes a Markdown report, plots and JSON.

Started by scripts/bench.sh, which builds and sets the machine up; docs/performance.md says how to read what it prints.
The modules are in perf/bench: catalogue (what there is), runner and whole (how it is run), rows (what comes of it),
must_hold, text, markdown, plots. One that fails is named, and the others are reported; the exit status is 1 then.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from bench import machine, markdown, must_hold, rows as row_maker, text, whole
from bench.catalogue import PROGRAMS, TESTPMD_FLOOR, Catalogue, NoSuchBenchmark, Process
from bench.runner import CPUS, Executables, RunError
from bench.usage import Usage

HUGEPAGE_BYTES = 2 << 20
HUGEPAGES_BASE = 128  # what DPDK and the packet buffers of the programs take


def arguments():
    parser = argparse.ArgumentParser(prog="bench.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="some minutes: nothing above 10 million flows, shorter runs")
    parser.add_argument("--only", metavar="PATTERN",
                        help="only benchmarks whose names match this regular expression, and what they are compared with")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write {machine, results}")
    parser.add_argument("--list", action="store_true", help="print the names, and end")
    parser.add_argument("--hugepages", action="store_true", help=argparse.SUPPRESS)  # print how many of 2 MiB are needed
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="of report.md and plots (default: BUILD/perf)")
    parser.add_argument("--no-huge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.build = options.build.resolve()
    options.output = options.output or options.build / "perf"
    try:
        re.compile(options.only or "")
    except re.error as error:
        parser.error(f"--only: '{options.only}' is no regular expression: {error}")
    return options


def make_catalogue(executables):
    names = {program: executables.names(program) for program in PROGRAMS}
    return Catalogue({**names, "testpmd": [TESTPMD_FLOOR], "acknowledge": [whole.ACKNOWLEDGE],
                      "pktgen": whole.pktgen_names()})


def say(what):
    print(what, file=sys.stderr, flush=True)


class Run:
    """One run: rows as they come, and what failed."""

    def __init__(self, options, executables, tsc_hz):
        self.options, self.executables, self.tsc_hz = options, executables, tsc_hz
        self.rows, self.failures = [], []

    def all(self, catalogue, names):
        processes = catalogue.processes(names)
        for number, process in enumerate(processes, 1):
            say(f"  {number:2}/{len(processes)}  {process.names[0]}"
                + (f" and {len(process.names) - 1} more" if len(process.names) > 1 else ""))
            if process.program == "pktgen":
                self._pktgen(process.names)
            elif needed := self._too_large(process):
                self._fail(process.names, f"the tables need {text.binary(needed)}, and this machine has less")
            else:
                self._process(process)

    def _process(self, process):
        usage = Usage()
        try:
            samples = self._samples(process)
        except RunError as error:
            # DPDK's table takes four times as much as ours, and may be all there is no room for.
            theirs = [name for name in process.names if name.startswith("rte_hash/")]
            ours = [name for name in process.names if name not in theirs]
            self._fail(theirs if theirs and ours else process.names, str(error))
            if theirs and ours:
                self._process(Process(process.program, process.key, ours, process.interleave))
            return
        others = usage.others()[0]
        for name, sample in samples.items():
            self.rows.append({**row_maker.make_row(name, sample, self.tsc_hz), "others_cpus": others})

    def _samples(self, process):
        quick, no_huge = self.options.quick, self.options.no_huge
        if process.program == "testpmd":
            return whole.testpmd_floor(self.tsc_hz, quick, no_huge)
        if process.program == "acknowledge":
            return whole.acknowledge(self.options.build, self.tsc_hz, quick, no_huge)
        return self.executables.run_process(process)

    def _pktgen(self, names):
        for traffic, modes, flows in whole.pktgen_runs(names):
            say(f"         {traffic.forward} {traffic.name or '64 bytes'}: {', '.join(modes)}, "
                f"{', '.join(map(str, flows))} flows")
            usage = Usage()
            try:
                rows, wrong = whole.pktgen(self.options.build, traffic, modes, flows, self.options.quick,
                                           self.options.no_huge)
            except RunError as error:
                self._fail([name for name in traffic.names() if name in names], str(error))
                continue
            others = usage.others()[0]
            have = {row["name"] for row in self.rows}
            self.rows += [{**row, "others_cpus": others} for row in rows if row["name"] not in have]
            for line in wrong:
                self._fail([f"pktgen/{traffic.forward}"], line)

    @staticmethod
    def _too_large(process):
        """Bytes that it needs, if there are not as many; hugepages that are reserved and free count as well."""
        page = os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file if line.endswith("kB\n")}
            file.seek(0)
            free = next((int(line.split()[1]) for line in file if line.startswith("HugePages_Free")), 0)
        there = fields.get("MemAvailable", page) + free * HUGEPAGE_BYTES
        return process.hugepage_bytes if process.hugepage_bytes > 0.9 * there else 0

    def _fail(self, names, why):
        if names:
            say(f"FAILED: {', '.join(names)}: {why}")
            self.failures.append({"names": list(names), "why": why})


def write(options, described, rows, verdicts):
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        from bench import plots  # here: only this needs matplotlib
        drawn = plots.draw(rows, options.output / "performance")
    except ImportError:
        say("no plots: matplotlib is missing\n  try: apt-get install python3-matplotlib")
        drawn = []
    report = markdown.render(described, rows, verdicts, [(f"performance/{name}", title) for name, title in drawn])
    (options.output / "report.md").write_text(report)
    result = json.dumps({"machine": described, "results": rows}, indent=1) + "\n"
    for path in filter(None, (options.output / "results.json", options.json)):
        path.write_text(result)
    print(f"\n{options.output}/report.md, results.json and performance/: {len(drawn)} plots")


def print_all(described, rows, verdicts):
    print(text.table(rows))
    print("\n" + "\n".join(f"{what + ':':<14}{value}" for what, value in text.machine(described)))
    if verdicts:
        print("\nMust hold:\n" + text.must_hold(verdicts))
    for warning in described["warnings"]:
        print(f"\nWARNING: {warning}")
    for failure in described["failures"]:
        print(f"\nFAILED: {', '.join(failure['names'])}: {failure['why']}")


def main():
    options = arguments()
    executables = Executables(options.build, options.quick, options.no_huge)
    try:
        catalogue = make_catalogue(executables)
        names = catalogue.choose(options.only, options.quick)
        if options.list:
            print("\n".join(names if options.only or options.quick else catalogue.names))
            return 0
        if options.hugepages:
            largest = max(process.hugepage_bytes for process in catalogue.processes(names))
            print(HUGEPAGES_BASE + largest // HUGEPAGE_BYTES)
            return 0
        tsc_hz = executables.tsc_hz()
    except (NoSuchBenchmark, RunError) as error:
        sys.exit(f"error: {error}")
    # The last CPU is the benchmarks' own.
    os.sched_setaffinity(0, CPUS[:1])
    described = machine.describe(options.build, tsc_hz, options.quick)
    usage, started = Usage(), time.monotonic()
    run = Run(options, executables, tsc_hz)
    run.all(catalogue, names)
    order = {name: position for position, name in enumerate(catalogue.names)}
    rows = sorted(row_maker.compare(run.rows, catalogue), key=lambda row: order.get(row["name"], len(order)))
    machine.finish(described, rows, usage, run.failures, time.monotonic() - started)
    verdicts = must_hold.judge(rows)
    if rows:
        print_all(described, rows, verdicts)
        write(options, described, rows, verdicts)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
