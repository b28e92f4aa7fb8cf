"""The report as Markdown: what must hold, the plots, every row, the machine. Written to be pasted into
docs/performance.md: links to plots are relative to docs/."""

import re

from bench import text

SECTIONS = (
    ("The flow table", r"^(flow_table|rte_hash|floor/random_line)/"),
    ("The pipeline, without a NIC", r"^(pipeline/|floor/testpmd)"),
    ("End to end", r"^pktgen/"),
    ("Changes", r"^(maglev|publish|acknowledge)/"),
    ("Pieces", r"."),
)


def table(headings, lines):
    rows = [headings, ["---"] + ["---:"] * (len(headings) - 2) + ["---"], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def must_hold(verdicts):
    lines = [[v["what"], v["required"], v["measured"], "holds" if v["holds"] else "**DOES NOT HOLD**"] for v in verdicts]
    return table(["what must hold", "required", "measured", ""], lines)


def sections(rows):
    left, parts = list(rows), []
    for title, pattern in SECTIONS:
        ours = [row for row in left if re.search(pattern, row["name"])]
        left = [row for row in left if row not in ours]
        if ours:
            lines = [[f"`{cells[0]}`", *cells[1:]] for cells in map(text.cells, ours)]
            parts.append(f"#### {title}\n\n{table(list(text.HEADINGS), lines)}")
    return parts


def render(machine, rows, verdicts, plots):
    """`plots`: [(path relative to docs/, title)]"""
    parts = [f"Measured in {machine['seconds'] / 60:.0f} minutes by `scripts/bench.sh"
             f"{' --quick' if machine['quick'] else ''}` at commit {machine['commit']}."]
    parts += [f"> **Beware:** {warning}." for warning in machine["warnings"]]
    parts += [f"> **Not measured:** {', '.join(one['names'])}: {' '.join(one['why'].split())}."
              for one in machine["failures"]]
    if verdicts:
        parts.append(must_hold(verdicts))
    parts += [f"![{title}]({path})" for path, title in plots]
    parts += sections(rows)
    parts.append(table(["machine", ""], [[what, value] for what, value in text.machine(machine)]))
    return "\n\n".join(parts) + "\n"
