#!/usr/bin/python3
"""The consistent methods side by side: what moves when backends change, how even the shares are, what a table costs.

  perf/methods.py BUILD [--plots FOLDER]

Runs BUILD/perf/method_bench; prints docs/affinity.md's table in Markdown and writes its plots to FOLDER.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

METHODS = ("maglev", "minimal", "ring", "rendezvous", "modulo")
SLOTS = (65537, 655373)
CHANGES = (
    ("1 of {n} goes", "remove_1", (10, 100, 1000)),
    ("10 of {n} go", "remove_10", (1000,)),
    ("1 comes to {n}", "add_1", (10, 100, 1000)),
    ("weight 100 to 90, 1 of {n}", "weight_90", (100, 1000)),
    ("weight 100 to 110, 1 of {n}", "weight_110", (100, 1000)),
    ("mixed weights: 1 of {n} goes", "mixed_remove_1", (10, 100, 1000)),
    ("mixed weights: 1 of {n} to 90 %", "mixed_weight_90", (10, 100, 1000)),
    ("mixed weights: 1 of {n} to 110 %", "mixed_weight_110", (10, 100, 1000)),
)


def run(build):
    """name: its counters, and `ms`, the least of some repetitions."""
    output = subprocess.run([build / "perf" / "method_bench", "--benchmark_format=json", "--benchmark_repetitions=5",
                             "--benchmark_min_time=0.05"], check=True, stdout=subprocess.PIPE, text=True).stdout
    report, results = json.loads(output), {}
    for row in report["benchmarks"]:
        if row["run_type"] != "iteration":
            continue
        name = row["run_name"].removesuffix("/iterations:1")
        milliseconds = row.get("cycles", 0) / float(report["context"]["tsc_hz"]) * 1e3
        best = results.setdefault(name, {**row, "ms": milliseconds})
        best["ms"] = min(best["ms"], milliseconds)
    return results


def percent(value):
    return f"{value:.3f} %" if value < 1 else f"{value:.2f} %" if value < 10 else f"{value:.1f} %"


def table(headings, rows):
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def movement(results, slots):
    rows = []
    for text, change, counts in CHANGES:
        for n in counts:
            of = [results[f"method/moves/{method}/{slots}/{change}/backends:{n}"] for method in METHODS]
            rows.append([text.format(n=f"{n:,}"), percent(of[0]["ideal_percent"]),
                         *(percent(one["moved_percent"]) for one in of)])
    return table(["slots that move", "ideal", *METHODS], rows)


def balance(results, slots):
    rows = []
    for n in (10, 100, 1000):
        of = [results[f"method/balance/{method}/{slots}/backends:{n}"] for method in METHODS]
        rows.append([f"{n:,} backends"] + [f"{one['max_over_mean']:.3f}, {100 * one['deviation']:.2f} %" for one in of])
    return table(["largest share / mean, standard deviation", *METHODS], rows)


def cost(results):
    rows = []
    for slots in SLOTS:
        for n in (10, 100, 1000):
            rows.append([f"{slots:,} slots, {n:,} backends"]
                        + [f"{results[f'method/build/{method}/{slots}/backends:{n}']['ms']:.1f} ms" for method in METHODS])
    return table(["build", *METHODS], rows)


def plots(results, folder):
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sluice", "font.size": 10, "axes.grid": True,
                                "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    counts = (10, 100, 1000)

    def draw(axes, name, field, methods=METHODS, scale=1.0):
        for method in methods:
            axes.plot(counts, [scale * results[name.format(method=method, n=n)][field] for n in counts], marker="o",
                      markersize=4, label=method)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("backends")

    def save(figure, name):
        # Without a date: the same figures give the same file.
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for one, (change, title) in zip(axes, (("remove_1", "one goes"), ("weight_90", "one's weight 100 to 90"),
                                           ("mixed_weight_110", "mixed weights: one's to 110 %"))):
        name = f"method/moves/{{method}}/65537/{change}/backends:{{n}}"
        draw(one, name, "moved_percent")
        one.plot(counts, [results[name.format(method="maglev", n=n)]["ideal_percent"] for n in counts], linestyle="--",
                 color="grey", label="ideal")
        one.set_title(title)
    axes[0].set_ylabel("% of 65,537 slots move")
    axes[0].legend(frameon=False)
    save(figure, "movement")

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    draw(axes[0], "method/balance/{method}/65537/backends:{n}", "deviation", scale=100.0)
    axes[0].set_ylabel("standard deviation of the shares, % of the mean")
    axes[0].legend(frameon=False)
    for one, slots in zip(axes[1:], SLOTS):
        draw(one, f"method/build/{{method}}/{slots}/backends:{{n}}", "ms")
        one.set_ylabel(f"ms to build {slots:,} slots")
    save(figure, "balance-and-cost")


def main():
    parser = argparse.ArgumentParser(prog="methods.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    results = run(options.build)
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"{model.group(1) if model else 'unknown CPU'}\n")
    for slots in SLOTS:
        print(f"{slots:,} slots:\n\n{movement(results, slots)}\n\n{balance(results, slots)}\n")
    print(cost(results))
    if options.plots:
        try:
            plots(results, options.plots)
        except ImportError:
            sys.exit("no plots: matplotlib is missing\n  try: apt-get install python3-matplotlib")
    return 0


if __name__ == "__main__":
    sys.exit(main())
