"""A laboratory of network namespaces: what it makes, it removes, however the run ends.

A Lab has a name; namespaces are called NAME-HOST, and all files are in one temporary folder. Programs are started with
`nsenter --net=...` (not `ip netns exec`, which hides /sys/fs/bpf) and ended by PID. Nothing outside the lab's own
namespaces and folder is touched.
"""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class LabError(RuntimeError):
    pass


def run(command, check=True, timeout=60, **options):
    """A command to its end; returns the CompletedProcess with text output. Its output is in the exception."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
    if check and result.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def wait_until(condition, what, timeout_s=10.0, poll_s=0.05):
    """Polls until condition() is true and returns its value; LabError, with what was waited for, after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout_s:g} s: {what() if callable(what) else what}")
        time.sleep(poll_s)


def ensure_bpffs():
    if run(["stat", "-f", "-c", "%T", "/sys/fs/bpf"]).stdout.strip() != "bpf_fs":
        run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])


class Process:
    """A program running in the background in a namespace, with its output in a file."""

    def __init__(self, name, command, log_path, cpus=None, env=None):
        self.name = name
        self.command = [str(part) for part in command]
        self.log_path = Path(log_path)
        log = open(self.log_path, "ab")
        set_cpus = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        self._popen = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=set_cpus, env={**os.environ, **(env or {})})
        log.close()

    @property
    def pid(self):
        return self._popen.pid

    def running(self):
        return self._popen.poll() is None

    def output(self):
        return self.log_path.read_text(errors="replace")

    def signal(self, number):
        if self.running():
            os.kill(self.pid, number)

    def wait(self, timeout_s=30.0):
        return self._popen.wait(timeout_s)

    def kill(self):
        """SIGKILL: what a crash looks like to the others."""
        self.signal(signal.SIGKILL)
        self._popen.wait(10)

    def stop(self, timeout_s=10.0):
        """SIGTERM, and SIGKILL when that is not enough. Returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.returncode

    def expect_running(self):
        if not self.running():
            raise LabError(f"{self.name} ended with {self._popen.returncode}:\n{self.output()[-2000:]}")


class Host:
    """A network namespace, as a host of the lab."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.netns = f"{lab.name}-{name}"

    def enter(self, command):
        return ["nsenter", f"--net=/run/netns/{self.netns}", *map(str, command)]

    def run(self, *command, **options):
        return run(self.enter(command), **options)

    def start(self, name, command, **options):
        return self.lab.add_process(Process(f"{self.name}/{name}", self.enter(command),
                                            self.lab.folder / f"{self.name}-{name}.log", **options))

    def ip(self, *lines):
        """Lines for `ip -batch`: one process for a whole host's set-up."""
        result = subprocess.run(["ip", "-netns", self.netns, "-batch", "-"], input="\n".join(lines),
                                capture_output=True, text=True, timeout=30)
        if result.returncode != 0:
            raise LabError(f"ip on {self.netns}: {result.stderr}")

    def sysctl(self, **values):
        """net.ipv4.conf.all.rp_filter=0 as net__ipv4__conf__all__rp_filter=0."""
        self.run("sysctl", "-qw", *(f"{key.replace('__', '.')}={value}" for key, value in values.items()))

    def mac(self, interface="eth0"):
        return run(["ip", "-netns", self.netns, "-brief", "link", "show", interface]).stdout.split()[2]


class Lab:
    def __init__(self, name, folder=None):
        self.name = name
        self.folder = Path(folder or tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hosts = {}
        self.processes = []
        self._cleanups = []
        self._closed = False
        atexit.register(self.close)
        # The default action would end the program without its cleanup.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def add_host(self, name):
        host = Host(self, name)
        run(["ip", "netns", "add", host.netns])
        self.hosts[name] = host
        host.ip("link set lo up")
        return host

    def add_process(self, process):
        self.processes.append(process)
        return process

    def on_close(self, action):
        """Run at close, last one first, after the processes have ended and before the namespaces go."""
        self._cleanups.append(action)

    def link(self, left, left_interface, right, right_interface):
        """A veth cable between two hosts; both ends are down."""
        run(["ip", "link", "add", left_interface, "netns", left.netns, "type", "veth",
             "peer", "name", right_interface, "netns", right.netns])

    def keep(self):
        """Leaves all as it is at the end of this program."""
        atexit.unregister(self.close)
        self._closed = True

    def close(self):
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for process in reversed(self.processes):
            process.stop(timeout_s=5.0)
        for action in reversed(self._cleanups):
            action()
        remove_namespaces(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)


def lab_name_of_test(number=0):
    """Unique on this machine; remove_dead_test_labs() can tell whose it is."""
    return f"sltest{os.getpid()}-{number}"


def remove_dead_test_labs():
    """What a test run that was killed could not remove."""
    for netns in namespaces():
        owner = re.match(r"(sltest(\d+)-\d+)-", netns)
        if owner and not Path(f"/proc/{owner[2]}").exists():
            remove_namespaces(owner[1])


def namespaces():
    return [line.split()[0] for line in run(["ip", "-o", "netns", "list"]).stdout.splitlines()]


def remove_namespaces(lab_name):
    """Of this lab, also one whose program is gone; ends what runs in them, and only that."""
    found = [netns for netns in namespaces() if netns.startswith(f"{lab_name}-")]
    pids = [int(pid) for netns in found for pid in run(["ip", "netns", "pids", netns]).stdout.split()]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 5.0
    for pid in pids:
        while Path(f"/proc/{pid}/status").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for netns in found:
        run(["ip", "netns", "del", netns], check=False)
