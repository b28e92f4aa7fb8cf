"""Who used the machine while something ran: this script's children, or others."""

import os
import resource
import time


def _busy_and_stolen_s():
    """Seconds that all CPUs together have worked, and those that the host gave to others, since the machine's start."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    per_second = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / per_second, steal / per_second


def _own_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Usage:
    """From its making to each call of others(): how many CPUs others kept busy on average. Children count once they
    have been waited for, so call it between processes."""

    def __init__(self):
        self._start = (time.monotonic(), _busy_and_stolen_s(), _own_s())

    def others(self):
        """(CPUs that other processes kept busy, CPUs that a virtual machine's host took away)"""
        began, (busy, stolen), own = self._start
        elapsed = max(1e-3, time.monotonic() - began)
        busy_now, stolen_now = _busy_and_stolen_s()
        return max(0.0, busy_now - busy - (_own_s() - own)) / elapsed, (stolen_now - stolen) / elapsed
