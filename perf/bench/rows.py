"""From samples to the rows of the JSON: {name, cycles, ns, per_second, floor_cycles, ratio, spread, ...}.

cycles        TSC cycles of one item (packet, flow, table, change): the median of the repeats
spread        (max - min) / median of the repeats
floor_cycles  of the floor, measured in the same run; `floor` says which it is
ratio         cycles / those of `ratio_to`: the partner that it is compared with, else the floor; null without
"""

import statistics

from bench.catalogue import RANDOM_LINE, size_of


def make_row(name, sample, tsc_hz):
    """Without what it is compared with."""
    cycles = statistics.median(sample.cycles)
    row = {"name": name, "cycles": cycles, "ns": cycles / tsc_hz * 1e9, "per_second": tsc_hz / cycles,
           "floor_cycles": None, "ratio": None, "spread": (max(sample.cycles) - min(sample.cycles)) / cycles,
           "repeats": sample.cycles}
    if sample.pages:
        row["pages"] = sample.pages
    row.update(sample.counters)
    per_flow(row)
    return row


def per_flow(row):
    """Memory and loss for each flow, where the name says how many there are."""
    if row["name"].startswith("flow_table/fill/"):
        row["table_bytes_per_flow"] = row["table_bytes"] / size_of(row["name"])
        row["untracked_share"] = row["untracked"] / size_of(row["name"])
    if "flows_tracked" in row and row["name"].startswith("pipeline/ipip/hit/"):
        row["tracked_share"] = row["flows_tracked"] / size_of(row["name"])


def compare(rows, catalogue):
    """Fills in floors and ratios, from rows of the same run."""
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        name = row["name"]
        if name.startswith("pktgen/"):
            continue  # has its own floor in it
        if floor := by_name.get(catalogue.floor_of(name)):
            row.update(floor=floor["name"], floor_cycles=floor["cycles"])
        if partner := by_name.get(catalogue.partner_of(name)):
            row.update(ratio_to=partner["name"], ratio=row["cycles"] / partner["cycles"])
            if "/returning/client/" in name:
                row["added_cycles"] = row["cycles"] - partner["cycles"]
        if name.startswith("flow_table/lookup/"):
            # Over the bytes that the table really has, and not those that its name makes one expect.
            if line := by_name.get(f"{RANDOM_LINE}{row['table_bytes']:.0f}"):
                row["ratio_random_line"] = row["cycles"] / line["cycles"]
    return rows
