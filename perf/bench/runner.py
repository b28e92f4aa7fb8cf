"""Runs the Google Benchmark executables. What a benchmark gave is a Sample: one value of cycles for each repeat.

The executables pin themselves: the measured thread to the last CPU (perf/cpus.h). This script keeps to the first, but its
children may use all.
"""

import json
import os
import re
import statistics
import subprocess
from dataclasses import dataclass, field

CPUS = sorted(os.sched_getaffinity(0))
REPEATS = 5
# Seconds of each repeat at least, preparation included; (quick, full). What percentiles of loops or changes come from
# needs more of them.
MIN_TIME_S = {"change": (0.5, 1.5)}
MIN_TIME_DEFAULT_S = (0.05, 0.25)
TIMEOUT_S = 3600

# What Google Benchmark itself writes about a repeat; anything else is a counter of ours.
OWN_FIELDS = {"name", "family_index", "per_family_instance_index", "run_name", "run_type", "repetitions",
              "repetition_index", "threads", "iterations", "real_time", "cpu_time", "time_unit", "items_per_second",
              "label", "cycles"}
# Counters of which the worst repeat counts, not the median.
WORST_IS_MOST = re.compile(r"^(moved|untracked|late)$|_max_us$")
WORST_IS_LEAST = re.compile(r"^flows_tracked$")


class RunError(Exception):
    """A program did not do what it is for; the text says which, and its last words."""


@dataclass
class Sample:
    cycles: list                              # of one item, by repeat
    counters: dict = field(default_factory=dict)
    pages: str = ""                           # what its table lies in


def use_all_cpus():
    """For a child: it pins itself where it wants to be."""
    os.sched_setaffinity(0, CPUS)


def run(command, timeout_s=TIMEOUT_S, accept=(0,), **options):
    """The standard output of a program that ends well."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                              check=False, timeout=timeout_s, preexec_fn=use_all_cpus, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{words[0]}: {error}") from error
    if done.returncode not in accept:
        last_words = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-4:])
        raise RunError(f"{os.path.basename(words[0])} ended with status {done.returncode}: {last_words}")
    return done


def strip_iterations(name):
    """As it was registered: Google Benchmark adds a fixed number of iterations to the name."""
    return re.sub(r"/iterations:\d+$", "", name)


def filter_of(names):
    """The executables' regular expressions know no escaped hyphen."""
    return "^(" + "|".join(re.escape(name).replace(r"\-", "-") for name in names) + ")(/iterations:[0-9]+)?$"


class Executables:
    """The benchmarks of a build folder."""

    def __init__(self, build, quick, no_huge=False):
        self.folder = build / "perf"
        self.quick = quick
        self.environment = {**os.environ, "SLUICE_NO_HUGE": "1" if no_huge else ""}

    def path(self, program):
        return self.folder / f"{program}_bench"

    def names(self, program, pattern="."):
        if not self.path(program).exists():
            return []
        command = [self.path(program), f"--benchmark_filter={pattern}", "--benchmark_list_tests"]
        listed = run(command, env=self.environment).stdout.split("\n")
        return [strip_iterations(name) for name in listed if name]

    def run_process(self, process):
        """{name: Sample} of a catalogue.Process."""
        min_time_s = MIN_TIME_S.get(process.program, MIN_TIME_DEFAULT_S)[0 if self.quick else 1]
        command = [self.path(process.program), f"--benchmark_filter={filter_of(process.names)}",
                   f"--benchmark_repetitions={REPEATS}", f"--benchmark_min_time={min_time_s}", "--benchmark_format=json"]
        if process.interleave:
            command.append("--benchmark_enable_random_interleaving=true")
        return parse(json.loads(run(command, env=self.environment).stdout)["benchmarks"])

    def tsc_hz(self):
        """The frequency of the time-stamp counter, as every executable measures it."""
        command = [self.path("hash"), "--benchmark_filter=^flow_hash/ipv4$", "--benchmark_min_time=0.001",
                   "--benchmark_format=json"]
        return float(json.loads(run(command, env=self.environment).stdout)["context"]["tsc_hz"])


def parse(benchmarks):
    """{name: Sample} of Google Benchmark's JSON; its aggregates are left out."""
    repeats = {}
    for one in benchmarks:
        if one.get("run_type") == "aggregate":
            continue
        if one.get("error_occurred"):
            raise RunError(f"{one['run_name']}: {one.get('error_message')}")
        repeats.setdefault(strip_iterations(one["run_name"]), []).append(one)
    samples = {}
    for name, ones in repeats.items():
        keys = [key for key in ones[0] if key not in OWN_FIELDS and isinstance(ones[0][key], (int, float))]
        counters = {key: _of_repeats(key, [one[key] for one in ones if key in one]) for key in keys}
        samples[name] = Sample([one["cycles"] for one in ones], counters, ones[0].get("label", ""))
    return samples


def _of_repeats(key, values):
    if WORST_IS_MOST.search(key):
        return max(values)
    return min(values) if WORST_IS_LEAST.search(key) else statistics.median(values)
