#!/usr/bin/python3
"""report.py with executables that give the figures they are told, and its names against those of the real ones.

  perf/report_test.py [REAL-EXECUTABLE...]
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from bench import must_hold, rows as row_maker, runner, text, whole
from bench.catalogue import TESTPMD_FLOOR, Catalogue, NoSuchBenchmark

HERE = Path(__file__).resolve().parent
REAL = [Path(path) for path in sys.argv[1:]]
TSC_HZ = 2.5e9

# The names that this project has promised.
PROMISED = {
    "testpmd": [TESTPMD_FLOOR],
    "flow_table": [f"flow_table/lookup/{n}" for n in (1_000_000, 10_000_000, 64_000_000)]
    + [f"flow_table/insert/{n}" for n in (1_000_000, 10_000_000)]
    + [f"floor/random_line/{n}" for n in (16 << 20, 256 << 20, 1 << 30)],
    "pipeline": [f"pipeline/ipip/hit/{n}" for n in (1, 10_000, 1_000_000, 10_000_000, 64_000_000)],
    "change": [f"pipeline/ipip/{kind}/1000000" for kind in ("new_flows", "syn_flood", "config_change")],
    "maglev": ["maglev/build/65537", "maglev/build/655373"],
}
CALIBRATION = {"flow_hash/ipv4": {"cycles": [3.0]}}

# Stands for every executable: figures.json says what its benchmarks give; one that is told to fail does.
EXECUTABLE = """#!/usr/bin/python3
import json, pathlib, re, sys
here = pathlib.Path(sys.argv[0])
figures = json.loads((here.parent / "figures.json").read_text())[here.name.removesuffix("_bench")]
options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
if "benchmark_list_tests" in options:
    sys.exit(print("\\n".join(figures)))
out = []
for name, one in figures.items():
    if not re.search(options["benchmark_filter"], name):
        continue
    if one.get("fails"):
        sys.exit("no memory for " + name)
    for i, cycles in enumerate(one["cycles"]):
        counters = {key: values[i] for key, values in one.get("counters", {}).items()}
        out.append({"name": name, "run_name": name, "run_type": "iteration", "repetition_index": i, "iterations": 9,
                    "cycles": cycles, "label": "2 MiB", "items_per_second": 1.0, **counters})
    out.append({"name": name + "_mean", "run_name": name, "run_type": "aggregate", "aggregate_name": "mean", "cycles": 1e9})
print(json.dumps({"context": {"tsc_hz": "2500000000"}, "benchmarks": out}))
"""


def table_figures(bytes_of_table=16 << 20):
    return {
        "flow_table/lookup/1000000": {"cycles": [20, 24, 22, 21, 23], "counters": {"table_bytes": [bytes_of_table] * 5}},
        "rte_hash/lookup/1000000": {"cycles": [44, 44, 40, 48, 44]},
        "floor/random_line/16777216": {"cycles": [11, 11, 11, 11, 11]},
        "flow_table/insert/1000000/iterations:1": {"cycles": [50] * 5, "counters": {"table_bytes": [bytes_of_table] * 5,
                                                                                    "untracked": [0, 3, 1, 0, 0]}},
        "rte_hash/insert/1000000/iterations:1": {"cycles": [100] * 5},
        "flow_table/lookup/64000000": {"cycles": [60] * 5},
        "floor/random_line/1073741824": {"cycles": [50] * 5},
    }


class FakeBuild:
    """A build folder of such executables."""

    def __init__(self, figures):
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-report-")
        self.path = Path(self._folder.name)
        (self.path / "perf").mkdir()
        self.figures = {"hash": CALIBRATION, **figures}
        (self.path / "perf" / "figures.json").write_text(json.dumps(self.figures))
        for program in self.figures:
            executable = self.path / "perf" / f"{program}_bench"
            executable.write_text(EXECUTABLE)
            executable.chmod(0o755)
        command = "c++ -Isrc -I. -Wall -O3 -march=native -MD -MQ a.o -MF a.d -o a.o -c ../perf/main.cc"
        (self.path / "compile_commands.json").write_text(json.dumps([{"file": "../perf/main.cc", "command": command}]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._folder.cleanup()

    def report(self, *arguments):
        """(exit status, stdout, stderr, {name: row} of the JSON, machine)"""
        out = self.path / "out.json"
        command = [sys.executable, HERE / "report.py", self.path, "--json", out, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        result = json.loads(out.read_text()) if out.exists() else {"machine": None, "results": []}
        return done.returncode, done.stdout, done.stderr, {row["name"]: row for row in result["results"]}, result["machine"]


class Report(unittest.TestCase):
    def test_a_row_and_what_it_is_compared_with(self):
        with FakeBuild({"flow_table": table_figures()}) as build:
            status, out, err, rows, machine = build.report("--only", "^flow_table/lookup/1000000$")
            self.assertEqual(status, 0, err)
            self.assertEqual(set(rows), {"flow_table/lookup/1000000", "rte_hash/lookup/1000000",
                                         "floor/random_line/16777216"})
            row = rows["flow_table/lookup/1000000"]
            self.assertEqual((row["cycles"], row["floor_cycles"], row["ratio"], row["ratio_random_line"]), (22, 11, 0.5, 2.0))
            self.assertAlmostEqual(row["spread"], 4 / 22)
            self.assertAlmostEqual(row["ns"], 22 / 2.5)
            self.assertAlmostEqual(row["per_second"], TSC_HZ / 22)
            self.assertEqual((row["ratio_to"], row["pages"]), ("rte_hash/lookup/1000000", "2 MiB"))
            self.assertEqual(machine["flags"], "-O3 -march=native")
            self.assertEqual((machine["tsc_hz"], machine["failures"]), (TSC_HZ, []))
            self.assertRegex(out, r"flow-table lookup against rte_hash, 1 M flows +at most 0.75 x +0.5 x +holds")
            report = (build.path / "perf" / "report.md").read_text()
            self.assertIn("| `flow_table/lookup/1000000` | 22.0 |", report)
            self.assertTrue(json.loads((build.path / "perf" / "results.json").read_text())["results"])

    def test_what_does_not_hold_is_said_and_fails_nothing(self):
        with FakeBuild({"flow_table": table_figures()}) as build:
            status, out, _, rows, _ = build.report("--only", "flow_table/insert")
            self.assertEqual(status, 0)
            self.assertEqual((rows["flow_table/insert/1000000"]["ratio"], rows["flow_table/insert/1000000"]["untracked"]),
                             (0.5, 3))
            self.assertRegex(out, r"insert against rte_hash, 1 M +at most 0.4 x +0.5 x +DOES NOT HOLD")
            self.assertIn("**DOES NOT HOLD**", (build.path / "perf" / "report.md").read_text())

    def test_the_random_line_is_that_of_the_table_as_it_is(self):
        with FakeBuild({"flow_table": table_figures(bytes_of_table=32 << 20)}) as build:
            _, _, _, rows, _ = build.report("--only", "^flow_table/lookup/1000000$")
            self.assertNotIn("ratio_random_line", rows["flow_table/lookup/1000000"])

    def test_an_unknown_name_lists_the_known_ones(self):
        with FakeBuild({"flow_table": table_figures()}) as build:
            status, _, err, _, _ = build.report("--only", "lookups")
            self.assertNotEqual(status, 0)
            self.assertIn("no benchmark matches 'lookups'", err)
            self.assertIn("  flow_table/insert/1000000\n", err)
            status, _, err, _, _ = build.report("--only", "(")
            self.assertIn("no regular expression", err)
            _, out, _, _, _ = build.report("--list", "--only", "^flow_hash")
            self.assertEqual(out, "flow_hash/ipv4\n")

    def test_without_memory_for_rte_hash_the_rest_is_measured(self):
        figures = table_figures()
        figures["rte_hash/lookup/1000000"]["fails"] = True
        with FakeBuild({"flow_table": figures}) as build:
            status, out, _, rows, machine = build.report("--only", "^flow_table/lookup/1000000$")
            self.assertEqual(status, 1)
            self.assertEqual(rows["flow_table/lookup/1000000"]["ratio_random_line"], 2.0)
            self.assertIsNone(rows["flow_table/lookup/1000000"]["ratio"])
            self.assertEqual(machine["failures"][0]["names"], ["rte_hash/lookup/1000000"])
            self.assertIn("no memory for rte_hash/lookup/1000000", out)

    def test_quick_has_no_large_tables(self):
        with FakeBuild({"flow_table": table_figures()}) as build:
            _, out, _, _, _ = build.report("--quick", "--list")
            self.assertIn("flow_table/insert/1000000\n", out)
            self.assertNotIn("64000000", out)
            self.assertNotIn("1073741824", out)


class Choosing(unittest.TestCase):
    catalogue = Catalogue({**PROMISED, "pktgen": whole.pktgen_names(), "flow_table": PROMISED["flow_table"] + [
        "rte_hash/lookup/1000000", "rte_hash/lookup/64000000", "flow_table/lookup/1000000/distance:8"],
        "change": PROMISED["change"] + ["pipeline/ipip/many_services/1000000", "pipeline/ipip/new_flows/100000"]})

    def test_partners_come_along(self):
        self.assertEqual(self.catalogue.choose("syn_flood"),
                         [TESTPMD_FLOOR, "pipeline/ipip/hit/1000000", "pipeline/ipip/syn_flood/1000000"])
        self.assertEqual(self.catalogue.choose("config_change/1000000"),
                         [TESTPMD_FLOOR, "pipeline/ipip/config_change/1000000", "pipeline/ipip/many_services/1000000"])
        self.assertEqual(self.catalogue.choose("^maglev/build/65537$"), ["maglev/build/65537"])

    def test_small_twins_only_by_name(self):
        self.assertNotIn("pipeline/ipip/new_flows/100000", self.catalogue.choose())
        self.assertIn("pipeline/ipip/new_flows/100000", self.catalogue.choose("new_flows"))

    def test_quick_has_the_promised_names_up_to_ten_million(self):
        chosen = self.catalogue.choose(quick=True)
        for name in sum(PROMISED.values(), []):
            large = name.endswith("64000000") or name == f"floor/random_line/{1 << 30}"
            self.assertEqual(name in chosen, not large, name)
        with self.assertRaises(NoSuchBenchmark):
            self.catalogue.choose("64000000", quick=True)

    def test_one_size_is_one_process(self):
        processes = self.catalogue.processes(self.catalogue.choose("^flow_table/"))
        names = {tuple(process.names) for process in processes}
        self.assertIn(("flow_table/lookup/1000000", "flow_table/insert/1000000", f"floor/random_line/{16 << 20}",
                       "rte_hash/lookup/1000000", "flow_table/lookup/1000000/distance:8"), names)
        largest = max(processes, key=lambda process: process.hugepage_bytes)
        self.assertEqual(largest.names[0], "flow_table/lookup/64000000")
        # The table, the random-line loop's memory, and more than both for rte_hash.
        self.assertGreater(largest.hugepage_bytes, 4 << 30)
        self.assertTrue(all(process.interleave for process in processes))

    def test_packet_generator_runs(self):
        ((traffic, modes, flows),) = whole.pktgen_runs(["pktgen/ipip/throughput/1000000", "pktgen/macswap/throughput"])
        self.assertEqual((traffic.arguments, modes, flows), ((), ["throughput"], [1_000_000]))
        ((_, modes, _),) = whole.pktgen_runs(["pktgen/ipip/mlr/0.5/1000000", "pktgen/ipip/latency/90"])
        self.assertEqual(modes, ["mlr", "latency"])
        ((traffic, _, flows),) = whole.pktgen_runs(["pktgen/ipip/throughput/10000000"])
        self.assertEqual(flows, [10_000_000])
        ((traffic, modes, _),) = whole.pktgen_runs(["pktgen/macswap/imix/throughput"])
        self.assertEqual((traffic.name, modes), ("imix", ["throughput"]))
        runs = whole.pktgen_runs(whole.pktgen_names())
        self.assertEqual([traffic for traffic, _, _ in runs], list(whole.TRAFFIC))


class Judging(unittest.TestCase):
    def test_the_worst_repeat_counts_for_what_must_not_happen(self):
        ones = [{"run_name": "a", "cycles": 1.0, "moved": moved, "ack_p99_us": ack, "flows_tracked": tracked}
                for moved, ack, tracked in ((0, 5.0, 10), (1, 9.0, 9), (0, 6.0, 10))]
        self.assertEqual(runner.parse(ones)["a"].counters, {"moved": 1, "ack_p99_us": 6.0, "flows_tracked": 9})
        with self.assertRaises(runner.RunError):
            runner.parse([{"run_name": "a", "error_occurred": True, "error_message": "no"}])

    def test_every_requirement_can_hold_and_can_fail(self):
        for one in must_hold.REQUIREMENTS:
            for factor, holds in ((1.0, True), (0.5 if one.at_least else 2.0, False)):
                # A limit of 0 has no double.
                value = one.limit * factor / one.scale if one.limit else 0.0 if holds else 1.0
                verdicts = must_hold.judge([{"name": one.row, one.field: value}])
                self.assertEqual([v["holds"] for v in verdicts], [holds], one.what)
                self.assertIn("holds" if holds else "DOES NOT HOLD", text.must_hold(verdicts))
        self.assertEqual(must_hold.judge([{"name": "flow_table/lookup/1000000", "ratio": None}]), [])

    def test_derived_figures(self):
        sample = runner.Sample([10.0], {"table_bytes": 16 << 20, "untracked": 2})
        row = row_maker.make_row(f"flow_table/fill/{1 << 20}", sample, TSC_HZ)
        self.assertEqual((row["table_bytes_per_flow"], row["untracked_share"]), (16.0, 2 / (1 << 20)))
        row = row_maker.make_row("pipeline/ipip/hit/1000", runner.Sample([10.0], {"flows_tracked": 999}), TSC_HZ)
        self.assertEqual(row["tracked_share"], 0.999)


@unittest.skipUnless(REAL, "no executables given")
class RealNames(unittest.TestCase):
    def test_all_that_was_promised_is_there(self):
        executables = runner.Executables(REAL[0].parents[1], quick=True)
        built = [path.name.removesuffix("_bench") for path in REAL]
        names = {program: executables.names(program) for program in built}
        for program, promised in PROMISED.items():
            if program in built:
                self.assertEqual(set(promised) - set(names[program]), set())
        catalogue = Catalogue({**names, "testpmd": [TESTPMD_FLOOR], "pktgen": whole.pktgen_names()})
        # Whatever is judged exists, and so does whatever it is compared with.
        for one in must_hold.REQUIREMENTS:
            if not one.row.startswith("flow_table/") or "flow_table" in built:
                self.assertIn(one.row, catalogue.names)
        for name in catalogue.names:
            self.assertNotIn(None, [catalogue.floor_of(name)] if name.startswith("pipeline/") else [])
        # Each process runs what it is meant to: the executable itself reads the expression.
        for process in catalogue.processes(catalogue.choose()):
            if process.program in built:
                self.assertEqual(sorted(executables.names(process.program, runner.filter_of(process.names))),
                                 sorted(process.names))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
