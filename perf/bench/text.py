"""Numbers and tables as people read them, on a terminal and in Markdown."""


def short(number, digits=2):
    """1.23 M"""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.{digits}f} {unit}"
    return f"{number:.1f}"


def nanoseconds(ns):
    for limit, unit in ((1e6, "ms"), (1e3, "us")):
        if ns >= limit:
            return f"{ns / limit:.2f} {unit}"
    return f"{ns:.1f} ns"


def binary(size):
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= limit:
            return f"{size / limit:.4g} {unit}"
    return f"{size:.0f} B"


HEADINGS = ("", "cycles", "time", "a second", "spread", "floor", "ratio", "")
# Counters worth a place in the last column: (field, text of it).
NOTES = (
    ("ratio_random_line", lambda v: f"{v:.2f} x a random line"),
    ("above_floor_cycles", lambda v: f"{v:.1f} cycles above the floor"),
    ("limited_by", lambda v: "generator-limited: at least this rate" if v == "generator" else ""),
    ("loop_own_p9999_us", lambda v: f"loops: own p99.99 {v:.1f} us"),
    ("loop_p9999_us", lambda v: f"with interruptions {v:.1f} us"),
    ("spin_p9999_us", lambda v: f"a spin as long {v:.1f} us"),
    ("loop_max_us", lambda v: f"max {v:.1f} us"),
    ("ack_p50_us", lambda v: f"acknowledged: p50 {v:.1f} us"),
    ("ack_p99_us", lambda v: f"p99 {v:.1f} us"),
    ("moved", lambda v: f"{v:.0f} flows moved"),
    ("untracked", lambda v: f"{v:.0f} flows without a place"),
    ("p50_ns", lambda v: f"p50 {nanoseconds(v)}"),
    ("p99_ns", lambda v: f"p99 {nanoseconds(v)}"),
    ("p99_99_ns", lambda v: f"p99.99 {nanoseconds(v)}"),
    ("lost", lambda v: f"{v:.0f} lost"),
    ("added_cycles", lambda v: f"{v:.1f} cycles more"),
)


def note_of(row):
    parts = [render(row[key]) for key, render in NOTES if row.get(key) is not None]
    if row.get("ratio_to") and row["ratio_to"] != row.get("floor"):
        parts.insert(0, f"to {row['ratio_to']}")
    if row.get("others_cpus", 0) > 0.05:
        parts.append(f"DISTURBED by others ({row['others_cpus']:.2f} CPUs)")
    return ", ".join(part for part in parts if part)


def cells(row):
    def cell(key, render):
        return render(row[key]) if row.get(key) is not None else ""
    return (row["name"], cell("cycles", short), cell("ns", nanoseconds), cell("per_second", short),
            cell("spread", lambda v: f"{100 * v:.1f} %"), cell("floor_cycles", short), cell("ratio", lambda v: f"{v:.2f}"),
            note_of(row))


def table(rows):
    lines = [HEADINGS] + [cells(row) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS) - 1)]
    return "\n".join("  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:-1], widths[1:])]
                               + [line[-1]]).rstrip() for line in lines)


def must_hold(verdicts):
    lines = [(v["what"], v["required"], v["measured"], "holds" if v["holds"] else "DOES NOT HOLD") for v in verdicts]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join("  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:3], widths[1:])]
                               + [line[3]]) for line in lines)


def machine(described):
    """[(what, text)]"""
    pages = ", ".join(f"{size}: {counts[0]}, {counts[1]} free" for size, counts in described["hugepages"].items())
    virtual = described["virtual_machine"]
    tree = " with changes" if described["dirty"] else ""
    loads = f"{described['load_average_before']:.2f} before, {described['load_average_after']:.2f} after"
    return [("CPU", f"{described['cpu']}, {described['cpus']} CPUs"
             + (f", virtual ({virtual})" if virtual not in ("", "none") else "")),
            ("caches", ", ".join(described["caches"])), ("memory", binary(described["memory_bytes"])),
            ("TSC", f"{described['tsc_hz'] / 1e9:.3f} GHz"), ("kernel", described["kernel"]),
            ("compiler", described["compiler"]), ("flags", described["flags"]),
            ("pages", f"{binary(described['page_bytes'])}; hugepages {pages or 'none'}; tables in "
             + (", ".join(described["table_pages"]) or "none")),
            ("commit", described["commit"] + tree),
            ("load average", f"{loads}; others: {described['others_cpus']:.2f} CPUs, the host: "
             f"{described['stolen_cpus']:.2f}")]
