"""Which benchmarks there are, what each is compared with, and which share a process.

The names come from the executables themselves, and those of the programs that are measured whole (testpmd, sluiced with
sluice-dataplane, the packet generator) from their modules. What is derived from a name is derived here and nowhere else.

  catalogue = Catalogue({"hash": ["flow_hash/ipv4", ...], ...})
  chosen = catalogue.choose(only="flow_table/lookup", quick=True)    with the partners that their ratios need
  for process in catalogue.processes(chosen): ...
"""

import re
from dataclasses import dataclass, field

# In the order they run and are reported. The first ones have no executable of their own in perf/.
PROGRAMS = ("testpmd", "hash", "parse", "flow_table", "pipeline", "change", "maglev", "publish", "acknowledge", "pktgen")
TESTPMD_FLOOR = "floor/testpmd_macswap"
RANDOM_LINE = "floor/random_line/"

TABLE_BYTES_PER_FLOW = 16    # at capacity; the number of buckets is a power of two (src/flow_layout.h)
SESSION_BYTES = 32            # at capacity; never fewer than 2^18 (src/session_layout.h)
RTE_HASH_BYTES_PER_FLOW = 68  # 32 of key and data, 64 a bucket of 8 at half load, 4 of the ring of free places
QUICK_SIZE_MAX = 10_000_000
QUICK_LINE_BYTES_MAX = 256 << 20

# Small twins of other benchmarks: for the tests, and for whoever asks for them by name.
SMALL = re.compile(r"/flows:\d+$|^flow_table/fill/262144$|^pipeline/(ipip6|l2dsr)/hit/100000$"
                   r"|^pipeline/ipip/(new_flows|returning/\w+|syn_flood|mixed_\d+|many_services|config_change)/100000$")
# What a quick run leaves out besides the large sizes: variants, and some points of each curve.
NOT_QUICK = re.compile(r"/(distance|batch):|^(flow_table|session_table|rte_hash|pipeline)/.*/100000$|^maglev/.*/backends:(10|10000)$"
                       r"|/backends/100$|/services/(10|1000)$|^publish/.*/services:100/backends:100$"
                       r"|/returning/\w+/10000000$|/client_hit"
                       r"|^publish/(drain|nothing)/|/new_by/.*/backends:10(00)?$")

# name -> the one it is compared with in "ratio". Others are compared with their floor.
PARTNERS = [(re.compile(pattern), partner) for pattern, partner in (
    (r"flow_table/(lookup|miss|insert)/(\d+)(/.*)?", r"rte_hash/\1/\2"),
    (r"session_table/(lookup|lookup_by_four|miss|insert)/(\d+)", r"flow_table/\1/\2"),
    (r"session_table/find/(\d+)", r"flow_table/lookup/\1"),
    (r"pipeline/ipip/returning/client/(\d+)", r"pipeline/ipip/returning/connection/\1"),
    (r"pipeline/ipip/(?:syn_flood|new_flows|mixed_\d+)/(\d+)", r"pipeline/ipip/hit/\1"),
    (r"pipeline/ipip/config_change/(\d+)", r"pipeline/ipip/many_services/\1"),
)]


class NoSuchBenchmark(Exception):
    """Nothing matches; the text lists what there is."""


@dataclass
class Process:
    """Benchmarks that run in one process: those of one size, which share their tables."""
    program: str
    key: str
    names: list = field(default_factory=list)
    interleave: bool = False  # its benchmarks are compared with each other: their repeats take turns
    hugepage_bytes: int = 0   # of its largest tables


def size_of(name):
    """The first number in the name: flows, slots, services; bytes of floor/random_line. None without one."""
    found = re.search(r"/(\d+)(?=/|$)", name)
    return int(found.group(1)) if found else None


class Catalogue:
    def __init__(self, names_of_program):
        self.program_of = {name: program for program in PROGRAMS for name in names_of_program.get(program, ())}
        self.names = list(self.program_of)
        self._line_bytes = sorted(size_of(name) for name in self.names if name.startswith(RANDOM_LINE))

    # ---- What a benchmark is compared with ------------------------------------------------------------------------------

    def line_bytes_of(self, flows):
        """Bytes of the random-line loop that goes over as much memory as a table for so many flows; None: there is none."""
        return next((size for size in self._line_bytes if size >= TABLE_BYTES_PER_FLOW * flows), None)

    def floor_of(self, name):
        """The least that anyone could need for it; None where nothing says so."""
        if re.match(r"flow_table/(lookup|miss|insert|fill)/", name):
            size = self.line_bytes_of(size_of(name))
            return f"{RANDOM_LINE}{size}" if size else None
        return TESTPMD_FLOOR if name.startswith("pipeline/") and TESTPMD_FLOOR in self.program_of else None

    def partner_of(self, name):
        for pattern, partner in PARTNERS:
            if found := pattern.fullmatch(name):
                other = found.expand(partner)
                return other if other in self.program_of else None
        return self.floor_of(name)

    # ---- Choosing -------------------------------------------------------------------------------------------------------

    def choose(self, only=None, quick=False):
        """Names to run, in order: all, or those that match, with what they are compared with."""
        if only is None:
            wanted = {name for name in self.names if not SMALL.search(name)}
        else:
            wanted = {name for name in self.names if re.search(only, name)}
        if quick:
            wanted = {name for name in wanted if self.is_quick(name)}
        if not wanted:
            what = f"'{only}'" + (" that a quick run has" if quick else "")
            raise NoSuchBenchmark(f"no benchmark matches {what}; there are:\n  " + "\n  ".join(self.names))
        for name in list(wanted):
            wanted |= {other for other in (self.partner_of(name), self.floor_of(name)) if other}
        return [name for name in self.names if name in wanted]

    def is_quick(self, name):
        size = size_of(name) or 0
        if name.startswith(RANDOM_LINE):
            return size <= QUICK_LINE_BYTES_MAX
        if self.program_of[name] == "pktgen":
            return re.fullmatch(r"pktgen/(macswap/throughput|ipip/throughput/1000000)", name) is not None
        too_big = size > QUICK_SIZE_MAX or re.search(r"/(backends|services)/10000$", name)
        return not too_big and not NOT_QUICK.search(name)

    # ---- Processes ------------------------------------------------------------------------------------------------------

    def processes(self, names):
        found = {}
        for name in names:
            program = self.program_of[name]
            key = self._process_key(program, name, names)
            process = found.setdefault((program, key), Process(program, key))
            process.names.append(name)
            process.interleave = program == "flow_table" or "config_change" in key or "returning" in key
            process.hugepage_bytes = self._hugepage_bytes(process)
        return list(found.values())

    def _process_key(self, program, name, chosen):
        if program == "flow_table":
            if name.startswith(RANDOM_LINE):
                # With a table that takes as many bytes.
                sizes = [size_of(other) for other in chosen if re.match(r"(flow_table|rte_hash)/lookup/", other)]
                return str(max((n for n in sizes if self.line_bytes_of(n) == size_of(name)), default=name))
            return str(size_of(name))
        if program == "pipeline":
            # One kind of table each: hits and Zipf share it.
            return name.replace("/zipf/", "/hit/")
        if program == "change":
            return name.replace("/many_services/", "/config_change/").replace("/returning/connection/", "/returning/client/")
        return program

    @staticmethod
    def _hugepage_bytes(process):
        """Of the tables that its benchmarks keep side by side."""
        if process.program not in ("flow_table", "pipeline", "change"):
            return 0
        total = 0
        kinds = {name.split("/")[0]: name for name in process.names}
        for kind, name in kinds.items():
            size = size_of(name)
            if kind == "rte_hash":
                total += RTE_HASH_BYTES_PER_FLOW * size
            elif kind == "floor":
                total += size
            elif kind == "session_table":
                total += SESSION_BYTES * size
            else:
                flows = 1_000_000 if size is None or "/backends/" in name or "/services/" in name else size
                total += 1 << max(22, (TABLE_BYTES_PER_FLOW * flows - 1).bit_length())
                if kind == "pipeline":
                    total += SESSION_BYTES * max(1 << 18, size if re.search("/(returning/client|client_hit)", name) else 0)
        return total
