"""What the figures were measured on and with: the `machine` of the JSON."""

import json
import os
import shlex
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HUGEPAGES = Path("/sys/kernel/mm/hugepages")
# Of a compiler's command line: where files are, what is warned of, and make's dependencies change no figure.
NO_FLAGS = ("-I", "-W", "-MD", "-MQ", "-MF", "-o", "-c", "-fdiagnostics", "-isystem", "-DSLUICE_VERSION")
OTHERS_CPUS_MAX = 0.05  # of a CPU: more, and somebody else was at work
STOLEN_CPUS_MAX = 0.02


def _output(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY).stdout.strip()
    except OSError:
        return ""


def _cpu_model():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")


def _caches():
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    read = [{key: (index / key).read_text().strip() for key in ("level", "type", "size")}
            for index in sorted(folder.glob("index*")) if (index / "size").exists()]
    return [f"L{one['level']} {one['type'].lower()} {one['size']}" for one in read]


def _compiler(build):
    """(version, flags that matter) of the packet path's build."""
    commands = json.loads((build / "compile_commands.json").read_text())
    words = shlex.split(next(one["command"] for one in commands if one["file"].endswith("perf/main.cc")))
    at = next(i for i, word in enumerate(words) if word.startswith("-"))
    flags, skip = [], False
    for word in words[at:]:
        if skip or word.startswith(NO_FLAGS) or not word.startswith("-"):
            skip = word in ("-o", "-MF", "-MQ", "-isystem")
            continue
        flags.append(word)
    version = _output(words[at - 1], "--version").splitlines()
    return (version[0] if version else words[at - 1]), " ".join(flags)


def _hugepages():
    """{"2 MiB": [all, free]}"""
    found = {}
    for folder in sorted(HUGEPAGES.glob("hugepages-*kB")):
        kib = int(folder.name.removeprefix("hugepages-").removesuffix("kB"))
        size = f"{kib >> 20} GiB" if kib >= 1 << 20 else f"{kib >> 10} MiB"
        found[size] = [int((folder / f"{what}_hugepages").read_text()) for what in ("nr", "free")]
    return found


def describe(build, tsc_hz, quick):
    """Before the run; finish() adds what is known after it."""
    compiler, flags = _compiler(build)
    return {"cpu": _cpu_model(), "cpus": os.cpu_count(), "caches": _caches(),
            "virtual_machine": _output("systemd-detect-virt", "--vm"),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "kernel": os.uname().release,
            "compiler": compiler, "flags": flags, "tsc_hz": tsc_hz, "page_bytes": os.sysconf("SC_PAGE_SIZE"),
            "hugepages": _hugepages(), "commit": _output("git", "rev-parse", "--short=12", "HEAD"),
            "dirty": bool(_output("git", "status", "--porcelain", "--untracked-files=no")), "quick": quick,
            "load_average_before": os.getloadavg()[0]}


def finish(machine, rows, usage, failures, seconds):
    others, stolen = usage.others()
    machine.update(table_pages=sorted({row["pages"] for row in rows if row.get("pages")}),
                   load_average_after=os.getloadavg()[0], others_cpus=others, stolen_cpus=stolen, seconds=seconds,
                   failures=failures)
    machine["warnings"] = warnings(machine)


def warnings(machine):
    """What makes these figures worth less."""
    found = []
    if machine["others_cpus"] > OTHERS_CPUS_MAX:
        found.append(f"others kept {machine['others_cpus']:.2f} CPUs busy meanwhile (rows: others_cpus): "
                     "these figures are too high")
    if machine["stolen_cpus"] > STOLEN_CPUS_MAX:
        found.append(f"the host of this virtual machine took away {machine['stolen_cpus']:.2f} CPUs: "
                     "these figures are too high")
    if "transparent" in machine["table_pages"]:
        found.append("some tables lay in transparent hugepages, for want of reserved ones")
    if machine["dirty"]:
        found.append(f"the tree was changed after commit {machine['commit']}")
    if "-O3" not in machine["flags"].split() or "-march=native" not in machine["flags"].split():
        found.append("the build is not what scripts/bench.sh builds (-O3 -march=native)")
    return found
