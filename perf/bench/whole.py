"""What is measured as whole programs: testpmd (the floor), a change through sluiced and sluice-dataplane, and the packet
generator's runs. Each is a script of its own in perf/; here are their names, commands and answers."""

import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.catalogue import TESTPMD_FLOOR
from bench.runner import REPEATS, RunError, Sample, run

PERF = Path(__file__).resolve().parents[1]
ACKNOWLEDGE = "acknowledge/10x100"
SEARCHES = {"rfc2544": ("rfc2544",), "mlr": ("mlr/0", "mlr/0.5")}
LATENCIES = ("latency/10", "latency/50", "latency/90")


def huge(no_huge):
    return ["--no-huge"] if no_huge else []


# ---- testpmd ---------------------------------------------------------------------------------------------------------


def testpmd_floor(tsc_hz, quick, no_huge):
    """{name: Sample}: each repeat is a second, or two, of one run."""
    command = [PERF / "testpmd_floor.py", "--json", "--tsc-hz", tsc_hz, "--repeats", REPEATS,
               "--seconds", 1 if quick else 2, *huge(no_huge)]
    return {TESTPMD_FLOOR: Sample(json.loads(run(command, timeout_s=120).stdout)["cycles"])}


# ---- A change, from the CLI to the acknowledgement -------------------------------------------------------------------


def acknowledge(build, tsc_hz, quick, no_huge):
    """{name: Sample}: each repeat is the median of a fifth of the changes."""
    changes = REPEATS * (10 if quick else 40)
    command = [PERF / "acknowledge.py", build, "--changes", changes, "--json", *huge(no_huge)]
    times_us = json.loads(run(command, timeout_s=300).stdout)["times_us"]
    share = len(times_us) // REPEATS
    medians_us = [statistics.median(times_us[i * share:(i + 1) * share]) for i in range(REPEATS)]
    ordered = sorted(times_us)
    counters = {"changes": len(ordered), "ack_p50_us": statistics.median(ordered),
                "ack_p99_us": ordered[int(0.99 * (len(ordered) - 1))], "ack_max_us": ordered[-1]}
    return {ACKNOWLEDGE: Sample([us * tsc_hz / 1e6 for us in medians_us], counters)}


# ---- The packet generator --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """One call of pktgen.py: the floor and the balancer under the same traffic."""
    name: str = ""           # as pktgen.py calls it: part of the rows' names
    arguments: tuple = ()
    flows: tuple = (1_000_000,)
    modes: tuple = ("throughput",)
    forward: str = "ipip"
    floor_name: str = ""     # of it, what also changes testpmd's packets

    def names(self):
        """{name of a row: its mode}"""
        def join(*parts):
            return "/".join(part for part in parts if part)
        rows = {join("pktgen/macswap", self.floor_name, "throughput"): "throughput"}
        for mode in self.modes:
            for row in SEARCHES.get(mode, ()) or (LATENCIES if mode == "latency" else (mode,)):
                sizes = [""] if mode == "latency" else [str(flows) for flows in self.flows]
                rows |= {join("pktgen", self.forward, self.name, row, size): mode for size in sizes}
        return rows


TRAFFIC = (
    Traffic(modes=("throughput", "rfc2544", "mlr", "latency")),
    Traffic(flows=(10_000, 10_000_000)),
    Traffic("zipf", ("--order", "zipf"), floor_name="zipf"),
    Traffic("churn0.01", ("--churn", "0.01"), floor_name="churn0.01"),
    Traffic("flood0.5", ("--syn-flood", "0.5"), floor_name="flood0.5"),
    Traffic("512", ("--frame", "512"), floor_name="512"),
    Traffic("1518", ("--frame", "1518"), floor_name="1518"),
    Traffic("imix", ("--frame", "imix"), floor_name="imix"),
    Traffic("v6", ("--ipv6",)),
    Traffic("", ("--forward", "l2dsr"), forward="l2dsr"),
)


def pktgen_names():
    return list(dict.fromkeys(name for traffic in TRAFFIC for name in traffic.names()))


def pktgen_runs(names):
    """[(Traffic, its modes, its flows)] that give these rows. A floor comes with every run; by itself it takes the
    shortest run that has it."""
    runs, missing = [], set(names)
    floors = {name for name in missing if name.startswith("pktgen/macswap/")}
    for traffic in TRAFFIC:
        own = traffic.names()
        wanted = [name for name in own if name in missing - floors]
        if wanted:
            modes = [mode for mode in traffic.modes if mode in {own[name] for name in wanted}]
            flows = [n for n in traffic.flows if any(name.endswith(f"/{n}") for name in wanted)]
            runs.append((traffic, modes, flows or traffic.flows[:1]))
            missing -= set(own)
    for floor in sorted(floors & missing):
        traffic = next(one for one in TRAFFIC if floor in one.names())
        runs.append((traffic, ["throughput"], traffic.flows[:1]))
    return runs


def pktgen(build, traffic, modes, flows, quick, no_huge):
    """(rows, what was wrong): its own rows are in the form of ours."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        out = Path(folder) / "out.json"
        command = [PERF / "pktgen" / "pktgen.py", build, "--json", out, "--modes", ",".join(modes),
                   "--flows", ",".join(map(str, flows)), "--repeat", REPEATS, *traffic.arguments,
                   *(("--seconds", "0.4", "--wait-close", "5") if quick else ()), *huge(no_huge)]
        done = run(command, timeout_s=1800, accept=(0, 1))
        wrong = [line for line in done.stderr.splitlines() if line.startswith("WRONG: ")]
        if not out.exists():
            raise RunError(f"pktgen.py ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
        return json.loads(out.read_text())["results"], wrong
