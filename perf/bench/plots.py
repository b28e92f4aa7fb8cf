"""The plots, as small SVG files: cost and memory against what grows, and distributions of times."""

import re

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402  (the backend comes first)

from bench.catalogue import TABLE_BYTES_PER_FLOW, TESTPMD_FLOOR  # noqa: E402

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sluice", "font.size": 10, "axes.grid": True,
                            "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})


class Points:
    """Rows whose names are `pattern` with a number in it: x the number, y a field."""

    def __init__(self, rows, pattern, field="cycles"):
        found = [(int(m.group(1)), row) for row in rows if (m := re.fullmatch(pattern, row["name"])) and field in row]
        found.sort(key=lambda one: one[0])
        self.x = [x for x, _ in found]
        self.y = [row[field] for _, row in found]
        repeats = [row.get("repeats", [y]) if field == "cycles" else [y] for (_, row), y in zip(found, self.y)]
        self.error = [[y - min(r) for r, y in zip(repeats, self.y)], [max(r) - y for r, y in zip(repeats, self.y)]]

    def draw(self, axes, label):
        if self.x:
            axes.errorbar(self.x, self.y, yerr=self.error, marker="o", markersize=4, capsize=3, label=label)
        return bool(self.x)


def _axes(count=1):
    figure, axes = pyplot.subplots(1, count, figsize=(7.5 if count == 1 else 10, 4), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def _finish(axes, x, y, log_y=False):
    axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _label(axes, x, y)


def _label(axes, x, y):
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _floor(axes, rows):
    if floor := next((row["cycles"] for row in rows if row["name"] == TESTPMD_FLOOR), None):
        axes.axhline(floor, linestyle="--", color="grey", label="testpmd macswap")


def cost_by_flows(rows):
    figure, (axes,) = _axes()
    drawn = [Points(rows, rf"pipeline/ipip/{kind}/(\d+)").draw(axes, label)
             for kind, label in (("hit", "uniform"), ("zipf", "Zipf (1.0)"))]
    _floor(axes, rows)
    _finish(axes, "flows", "TSC cycles a packet")
    return figure if any(drawn) else None


def cost_by_configuration(rows):
    figure, (axes,) = _axes()
    drawn = [Points(rows, rf"pipeline/ipip/{kind}/(\d+)").draw(axes, label)
             for kind, label in (("backends", "backends of one service"), ("services", "services of ten backends"))]
    _floor(axes, rows)
    _finish(axes, "backends or services", "TSC cycles a packet, 1 M flows")
    return figure if any(drawn) else None


def lookup(rows):
    figure, (axes,) = _axes()
    drawn = [Points(rows, rf"{name}/lookup/(\d+)").draw(axes, label)
             for name, label in (("flow_table", "flow table"), ("rte_hash", "rte_hash"))]
    # A random line by the flows of the table that it is as large as.
    by_floor = {row.get("floor"): int(m.group(1)) for row in rows
                if (m := re.fullmatch(r"flow_table/lookup/(\d+)", row["name"]))}
    lines = sorted((by_floor[row["name"]], row["cycles"]) for row in rows if row["name"] in by_floor)
    if lines:
        axes.plot(*zip(*lines), marker="s", markersize=4, linestyle="--", color="grey", label="random line, same bytes")
    _finish(axes, "flows", "TSC cycles a lookup, hash included")
    return figure if any(drawn) else None


def memory(rows):
    figure, (left, right) = _axes(2)
    flows = Points(rows, r"pipeline/ipip/hit/(\d{5,})", "table_bytes")
    if flows.x:
        left.plot(flows.x, [size / 2**20 for size in flows.y], marker="o", label="flow table")
        left.plot(flows.x, [TABLE_BYTES_PER_FLOW * n / 2**20 for n in flows.x], linestyle="--", color="grey",
                  label="16 B a flow")
        _finish(left, "flows", "MiB", log_y=True)
    drawn = []
    for kind, label in (("backends", "backends of one service"), ("services", "services of ten backends")):
        points = Points(rows, rf"pipeline/ipip/{kind}/(\d+)", "tables_used_bytes")
        if points.x:
            drawn = right.plot(points.x, [size / 2**20 for size in points.y], marker="o", label=label)
    if drawn:
        _finish(right, "backends or services", "MiB of the tables segment", log_y=True)
    return figure if flows.x or drawn else None


def loops(rows):
    figure, (axes,) = _axes()
    fields = (("loop_p50_us", "p50"), ("loop_p99_us", "p99"), ("loop_p9999_us", "p99.99"), ("loop_max_us", "max"))
    drawn = False
    for kind, label in (("mixed_1", "1 % new flows"), ("mixed_10", "10 % new flows")):
        row = next((row for row in rows if row["name"] == f"pipeline/ipip/{kind}/1000000" and fields[0][0] in row), None)
        if row:
            axes.plot([text for _, text in fields], [row[field] for field, _ in fields], marker="o", label=label)
            drawn = True
    axes.axhline(20, linestyle="--", color="grey", label="20 us")
    axes.set_yscale("log")
    _label(axes, "", "us of a loop, 64 packets")
    return figure if drawn else None


def latency(rows):
    """How many packets took longer: one line for each load."""
    figure, (axes,) = _axes()
    drawn = False
    for row in rows:
        if not (row["name"].startswith("pktgen/ipip/latency/") and row.get("histogram_ns")):
            continue
        bounds, counts = zip(*row["histogram_ns"])
        total, longer, shares = sum(counts), sum(counts), []
        for count in counts:
            longer -= count
            shares.append(longer / total)
        axes.step([ns / 1e3 for ns in bounds[:-1]], shares[:-1], where="post",
                  label=f"{row['name'].split('/')[3]} % of {row['of_rate'] / 1e6:.1f} Mpps")
        drawn = True
    axes.set_xscale("log")
    axes.set_yscale("log")
    _label(axes, "us from the generator to the target and back", "share of packets that took longer")
    return figure if drawn else None


PLOTS = (
    ("cost-flows", "Cycles a packet against flows", cost_by_flows),
    ("cost-configuration", "Cycles a packet against backends and services", cost_by_configuration),
    ("lookup", "The flow table beside rte_hash and a random line", lookup),
    ("memory", "Memory against flows, backends and services", memory),
    ("loops", "Time of a worker's loop while flows come and go", loops),
    ("latency", "Latency end to end", latency),
)


def draw(rows, folder):
    """Writes those that these rows have points for; [(file name, title)]. Older ones in the folder are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title, make in PLOTS:
        path = folder / f"{name}.svg"
        path.unlink(missing_ok=True)
        figure = make(rows)
        if figure:
            figure.savefig(path, metadata={"Date": None})
            written.append((path.name, title))
        pyplot.close("all")
    return written
