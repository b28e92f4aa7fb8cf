"""What the machine gives to a run: CPUs, hugepages, and the end of every child process.

Two CPUs are enough: the target's worker has the last one to itself; the generator has one, and everything else, which sleeps
during trials, the first. With two CPUs these are the same.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from control import PktgenError

NR_HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
FREE_HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
# As scripts/lib.sh keeps it: what a killed run has reserved is given back by the next script.
SETUP_STATES, SETUP_LOCK = Path("/run/sluice-setup"), Path("/run/lock/sluice-setup.lock")
PAGE_BYTES = 2 << 20
BASE_BYTES = 192 << 20  # packet buffers of both sides and what DPDK keeps for itself


class Cpus:
    def __init__(self):
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise PktgenError("two CPUs are needed, one for the generator and one for what is measured")
        self.all = cpus
        self.worker, self.generator, self.rest = cpus[-1], cpus[-2], cpus[0]


@contextmanager
def _setup_lock():
    with open(SETUP_LOCK, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _add_hugepages(count):
    before = int(NR_HUGEPAGES.read_text())
    NR_HUGEPAGES.write_text(str(max(0, before + count)))
    return int(NR_HUGEPAGES.read_text()) - before


@contextmanager
def hugepages(wanted_bytes):
    """Reserves as many more, for the time of the block; yields whether they could be had."""
    wanted = -(-wanted_bytes // PAGE_BYTES)
    state = SETUP_STATES / str(os.getpid())
    got = 0
    if NR_HUGEPAGES.exists():
        with _setup_lock():
            state.mkdir(parents=True, exist_ok=True)
            got = _add_hugepages(wanted)
            (state / "hugepages").write_text(f"{got}\n", encoding="ascii")
    try:
        yield NR_HUGEPAGES.exists() and int(FREE_HUGEPAGES.read_text()) >= wanted
    finally:
        if state.exists():
            with _setup_lock():
                _add_hugepages(-got)
                shutil.rmtree(state, ignore_errors=True)
                if not any(SETUP_STATES.glob("*/")) and not (SETUP_STATES / "mounted-bpffs").exists():
                    SETUP_STATES.rmdir()


class Child:
    """A child process with its output in a file; ended by PID."""

    def __init__(self, command, log, cpus, env=None, stdin=subprocess.DEVNULL):
        self.log = Path(log)
        self.name = Path(str(command[0])).name
        with open(self.log, "wb") as output:
            self._popen = subprocess.Popen(
                [str(word) for word in command], stdin=stdin, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})}, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
        self.pid, self.stdin = self._popen.pid, self._popen.stdin

    def output(self):
        return self.log.read_text(errors="replace")

    def expect_running(self):
        if self._popen.poll() is not None:
            raise PktgenError(f"{self.name} ended with status {self._popen.returncode}:\n{self.output()[-1500:]}")

    def stop(self, timeout_s=15.0):
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait(10)


def wait_until(condition, what, timeout_s=30.0):
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise PktgenError(f"not within {timeout_s:g} s: {what() if callable(what) else what}")
        time.sleep(0.05)
