"""The benchmarks that are scripts, small: that they run and measure what they say, never how long it takes."""

import json
import os
import sys

import pytest

from fabric import program
from lab import run

BUILD = program("controlplane/sluiced").parent.parent
PERF = os.path.join(os.path.dirname(__file__), "../../perf")


def measured(script, *options):
    return json.loads(run([sys.executable, os.path.join(PERF, script), BUILD, "--json", *options], timeout=120).stdout)


def test_health_change():
    times = measured("health_change.py", "--services", "3", "--backends", "4", "--changes", "8", "--interval-s", "1", "--no-huge")
    assert 2 <= len(times["times_us"]) <= 8 and min(times["times_us"]) > 0


def test_control_scale():
    figures = measured("control_scale.py", "--services", "4", "--backends", "3", "--no-huge")
    memory = figures.pop("memory_bytes")
    assert figures and all(figure > 0 for figure in [*figures.values(), *memory.values()]), (figures, memory)


def test_scrape():
    figures = measured("scrape.py", "--services", "4", "--backends", "3", "--scrapes", "2")
    assert len(figures["times_s"]) == 2 and figures["bytes"] > 0, figures


def test_added_latency():
    # That Sluice's paths, and no other, went through Sluice is the script's own business.
    figures = measured("added_latency.py", "--quick", "--no-huge")
    assert set(figures["us"]) == {"direct", "direct+decap", "testpmd", "kernel", "l2dsr", "ipip"}, figures
    for path, us in figures["us"].items():
        assert 0 < us["p50"]["min"] <= us["p50"]["median"] <= us["p99"]["median"] <= us["p999"]["median"], (path, us)
    assert {"l2dsr to direct", "ipip to direct+decap"} <= set(figures["added_us"]), figures


def test_cache_gain():
    figures = measured("cache_gain.py", "--quick", "--no-huge")
    (run_,) = figures["runs"]
    spread, consistent = run_["round-robin"], run_["client"]
    requests = [backend["requests"] for backend in spread["backends"].values()]
    assert sum(requests) == 3000 and max(requests) - min(requests) <= 30, spread
    assert consistent["backends_of_a_user"] == 1 < spread["backends_of_a_user"], figures
    # Hits, not times: the trace and where its users hash to are the same each time.
    assert run_["gain"] >= 1.5 and 0 < consistent["hits"] < 3000, figures
