"""The figures that must hold, each with the row and field that it is judged by. A benchmark informs: nothing fails."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    what: str
    row: str
    field: str
    limit: float
    at_least: bool = False
    unit: str = ""
    scale: float = 1.0  # from the field's unit to that of the limit

    def required(self):
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit}"


def _table():
    each = Requirement
    lookup, line = "flow-table lookup against rte_hash", "the same against a random line"
    yield each(f"{lookup}, 1 M flows", "flow_table/lookup/1000000", "ratio", 0.75, unit=" x")
    yield each(f"{lookup}, 10 M", "flow_table/lookup/10000000", "ratio", 0.6, unit=" x")
    yield each(f"{line}, 10 M", "flow_table/lookup/10000000", "ratio_random_line", 1.6, unit=" x")
    yield each(f"{line}, 64 M", "flow_table/lookup/64000000", "ratio_random_line", 1.6, unit=" x")
    for size, flows in (("1 M", 1_000_000), ("10 M", 10_000_000)):
        yield each(f"insert against rte_hash, {size}", f"flow_table/insert/{flows}", "ratio", 0.4, unit=" x")
    for size, flows, cycles in (("10 k", 10_000, 40), ("1 M", 1_000_000, 60), ("10 M", 10_000_000, 80),
                                ("64 M", 64_000_000, 110)):
        yield each(f"pipeline, IPIP, hits, {size} flows", f"pipeline/ipip/hit/{flows}", "cycles", cycles, unit=" cycles")
    yield each("end to end above testpmd macswap, 1 M flows", "pktgen/ipip/throughput/1000000", "above_floor_cycles", 80,
               unit=" cycles")
    yield each("new flows, 1 M live", "pipeline/ipip/new_flows/1000000", "per_second", 8, True, " M/s", 1e-6)
    for size, sessions in (("1 M", 1_000_000), ("10 M", 10_000_000)):
        for threads, name in (("", "lookup"), (", by four threads", "lookup_by_four")):
            yield each(f"session lookup against a flow's, {size}{threads}", f"session_table/{name}/{sessions}", "ratio", 1.3,
                       unit=" x")
    yield each("a new connection's session, 1 M clients", "pipeline/ipip/returning/client/1000000", "added_cycles", 60,
               unit=" cycles")
    flood = "pipeline/ipip/syn_flood/1000000"
    yield each("50 % SYN flood, established flows moved", flood, "moved", 0)
    yield each("50 % SYN flood, cost of a packet against none", flood, "ratio", 1.5, unit=" x")
    change = "pipeline/ipip/config_change/1000000"
    yield each("a change every ms, cost of a packet against none", change, "ratio", 1.1, unit=" x")
    yield each("a change every ms, acknowledged, p99", change, "ack_p99_us", 1000, unit=" us")
    yield each("longest loop, 10 % churn, own p99.99", "pipeline/ipip/mixed_10/1000000", "loop_own_p9999_us", 20, unit=" us")
    for slots, ms in ((65_537, 1), (655_373, 12)):
        yield each(f"Maglev build, 1,000 backends, {slots:,} slots", f"maglev/build/{slots}", "ns", ms, unit=" ms",
                   scale=1e-6)
    for flows in (1 << 20, 1 << 26):
        fill = f"flow_table/fill/{flows}"
        yield each(f"table memory a flow, {flows:,} flows", fill, "table_bytes_per_flow", 16, unit=" B")
        yield each(f"flows without a place, in 100,000 of {flows:,}", fill, "untracked_share", 1, scale=1e5)
    yield each("flows tracked, in 100,000 of 100 M", "pipeline/ipip/hit/100000000", "tracked_share", 99_999, True, "", 1e5)


REQUIREMENTS = tuple(_table())


def judge(rows):
    """[{what, row, required, measured, holds}] of what these rows cover."""
    by_name = {row["name"]: row for row in rows}
    verdicts = []
    for one in REQUIREMENTS:
        value = by_name.get(one.row, {}).get(one.field)
        if value is None:
            continue
        measured = value * one.scale
        holds = measured >= one.limit if one.at_least else measured <= one.limit
        verdicts.append({"what": one.what, "row": one.row, "required": one.required(),
                         "measured": f"{measured:.4g}{one.unit}" if measured < 10_000 else f"{measured:,.2f}{one.unit}",
                         "holds": holds})
    return verdicts
