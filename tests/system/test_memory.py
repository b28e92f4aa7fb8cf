"""Where the flows lie, and what an idle worker costs."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fabric import BACKENDS, VIPS4, program
from lab import wait_until
from sluice import on_fabric, service
from traffic import KeepAlive, curl_once

WEB = VIPS4[0]
CONFIG = service("web", WEB, "ipip", on_fabric())


@pytest.fixture
def huge_mount(idle_balancer):
    """A hugetlbfs of the test's own, where the data plane may find it."""
    if os.environ.get("SLUICE_NO_HUGE"):
        pytest.skip("no hugepages could be reserved")
    place = Path("/run") / f"{idle_balancer.fabric.name}-huge"
    place.mkdir()
    idle_balancer.fabric.on_close(place.rmdir)
    subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", place], check=True)
    # Its pages are free again once the data plane, which is stopped first, does not use them.
    idle_balancer.fabric.on_close(lambda: subprocess.run(["umount", place], check=True))
    yield place


def kill_and_take_over(balancer):
    """Keep-alive connections over a SIGKILL of the data plane: none is lost or moved, though the table changed."""
    kept = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=30)
    time.sleep(1)
    balancer.change("backend", "drain", "web/b2")
    balancer.dataplane.kill()
    balancer.start_dataplane()
    balancer.wait_answering()
    wait_until(balancer.workers_current, "the new data plane follows")
    wait_until(lambda: "going on with the flows" in balancer.dataplane.output(), "it found the flows")
    time.sleep(1)
    connections = kept.finish()
    assert len(connections) == 30
    assert [c for c in connections if c["error"]] == []
    assert [c for c in connections if len(c["backends"]) != 1] == []
    assert {name for c in connections for name in c["backends"]} == set(BACKENDS)


def test_flows_in_hugepages(idle_balancer, huge_mount):
    idle_balancer.start()
    assert "in pages of 2 MiB" in idle_balancer.dataplane.output()
    files = list(huge_mount.iterdir())
    assert len(files) == 1
    assert (idle_balancer.directory / "flows").resolve() == files[0]
    kill_and_take_over(idle_balancer)
    assert list(huge_mount.iterdir()) == files
    # A copy of the directory has the same link: nobody else may write that table.
    copy = Path(f"{idle_balancer.directory}-copy")
    idle_balancer.fabric.on_close(lambda: shutil.rmtree(copy, ignore_errors=True))
    shutil.copytree(idle_balancer.directory, copy, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    second = idle_balancer.host.run(
        "taskset", "-c", f"0-{os.cpu_count() - 1}", program("dataplane/sluice-dataplane"), "--dir", copy, "--vdev", "net_null0",
        "--cores", os.cpu_count() - 1, check=False, timeout=30)
    assert second.returncode == 1
    assert "is written by another process" in second.stderr and "--dir" in second.stderr
    # A link that was removed: its memory is not lost.
    idle_balancer.dataplane.stop()
    (idle_balancer.directory / "flows").unlink()
    idle_balancer.start_dataplane()
    wait_until(idle_balancer.workers_current, "a new table")
    assert len(list(huge_mount.iterdir())) == 1
    # Another size: the old memory is given back.
    idle_balancer.dataplane.stop()
    idle_balancer.start_dataplane("--flows-max", "3000000")
    wait_until(lambda: "4194304 flows and 262144 sessions take 74 MiB" in idle_balancer.dataplane.output(), "a table of another size")
    assert len(list(huge_mount.iterdir())) == 1
    idle_balancer.dataplane.stop()


def test_flows_without_hugepages(idle_balancer):
    """In the instance's directory, in big pages if the kernel can."""
    idle_balancer.start_dataplane("--flows-max", "16000000", "--no-huge")
    idle_balancer.start_sluiced()
    idle_balancer.wait_ready()
    said = idle_balancer.dataplane.output()
    assert "16777216 flows and 262144 sessions take 264 MiB, in transparent pages of 2 MiB" in said or "echo" in said
    assert not (idle_balancer.directory / "flows").is_symlink()
    assert curl_once(idle_balancer.fabric.hosts["c1"], WEB)[0] == 200


def worker_switches(balancer):
    """How often the worker's thread gave its CPU away by itself: the highest CPU is its own."""
    tasks = Path(f"/proc/{balancer.dataplane.pid}/task")
    for task in tasks.iterdir():
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
        if lines["Name"].strip().startswith(("lcore-worker", "dpdk-worker", "rte-worker")):
            return int(lines["voluntary_ctxt_switches"])
    raise AssertionError("no worker thread: " + ", ".join((t / "comm").read_text() for t in tasks.iterdir()))


def test_an_idle_worker_sleeps_if_it_may(idle_balancer):
    idle_balancer.start_dataplane("--sleep", "1000")
    idle_balancer.start_sluiced()
    idle_balancer.wait_ready()
    before = worker_switches(idle_balancer)
    wait_until(lambda: worker_switches(idle_balancer) > before + 100, "the worker sleeps again and again")
    assert curl_once(idle_balancer.fabric.hosts["c1"], WEB)[0] == 200
    # Changes are taken up all the same.
    idle_balancer.change("backend", "weight", "web/b1", "50")
    wait_until(idle_balancer.workers_current, "the worker follows")

    idle_balancer.dataplane.stop()
    idle_balancer.start_dataplane()
    wait_until(idle_balancer.workers_current, "the worker without --sleep follows")
    before = worker_switches(idle_balancer)
    assert curl_once(idle_balancer.fabric.hosts["c1"], WEB)[0] == 200
    time.sleep(1)
    assert worker_switches(idle_balancer) - before < 20, "polling without pause"
