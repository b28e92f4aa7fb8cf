"""The wall clock is set, by hours or years, forward and back, under traffic: it is told, and nothing else happens."""

import struct
from pathlib import Path

import pytest

from fabric import BACKENDS, VIPS4
from lab import run, wait_until
from sluice import on_fabric, service
from traffic import KeepAlive, curl_many

HERE = Path(__file__).resolve().parent
WEB, SPARE = VIPS4[:2]
SPARE_PORT = 8081
TIMES = 'interval = "200ms", timeout = "150ms", rise = 2, fall = 2'
WEB_CONFIG = service("web", WEB, "ipip", on_fabric())
# Checked on a server of its own, which fails without that clients see it.
SPARE_CONFIG = service("spare", SPARE, "ipip", on_fabric({"b1": 100}),
                       health=f'{{ type = "tcp", port = {SPARE_PORT}, {TIMES} }}')
CONFIG = WEB_CONFIG + SPARE_CONFIG


class Clock:
    """The wall clock of the processes that are started with its environment; this machine's stays alone."""

    def __init__(self, folder):
        self.file = folder / "wall-clock"
        self.file.write_bytes(bytes(8))
        library = folder / "wall_clock.so"
        run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "wall_clock.c"])
        self.env = {"LD_PRELOAD": str(library), "SLUICE_WALL_CLOCK": str(self.file)}

    def set(self, days):
        """That far from the true time."""
        with open(self.file, "r+b") as file:
            file.write(struct.pack("=q", round(days * 86_400)))


@pytest.fixture
def clock(idle_balancer):
    return Clock(idle_balancer.fabric.folder)


@pytest.fixture
def balancer(idle_balancer, clock):
    """Every process of it goes by the clock that is set."""
    balancer = idle_balancer
    balancer.spare = start_spare(balancer)
    balancer.start_dataplane(env=clock.env)
    balancer.start_sluiced(env=clock.env)
    balancer.wait_ready()
    return balancer


def start_spare(balancer):
    host = balancer.fabric.hosts["b1"]
    process = host.start("spare", ["/usr/bin/python3", "-m", "http.server", SPARE_PORT])
    balancer.fabric.wait_listening("b1", SPARE_PORT, process)
    return process


def events(balancer, kind):
    return balancer.show("show", "events", "--kind", kind)["events"]


def weights(balancer):
    return [balancer.backend("web", name)["weight"] for name in BACKENDS]


def apply(balancer, weight, *options):
    path = balancer.fabric.folder / f"weight-{weight}.toml"
    path.write_text(WEB_CONFIG.replace("weight = 100", f"weight = {weight}") + SPARE_CONFIG)
    balancer.change("apply", *options, path)


def test_a_jump_is_told_and_changes_nothing(balancer, clock):
    apply(balancer, 70, "--confirm", "10m")
    kept = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=30)
    wait_until(lambda: sum(balancer.backend("web", name)["flows_active"] for name in BACKENDS) >= 30, "30 connections")
    backend_changes = events(balancer, "backend_*")
    for jumps, days in enumerate((400, -400, -0.1, 0), start=1):
        clock.set(days)
        wait_until(lambda n=jumps: len(events(balancer, "clock_jumped")) == n, lambda: str(events(balancer, "*")), 20.0)
        told = events(balancer, "clock_jumped")[-1]
        assert told["level"] == "warning" and (" forward" if jumps in (1, 3, 4) else " back") in told["text"], told
        assert weights(balancer) == [70] * 3, "waits to be confirmed by another clock"
        assert curl_many(balancer.fabric.hosts["c2"], WEB, 50).failures == []
    assert events(balancer, "backend_*") == backend_changes, "no health changed"
    # Checks go on, and see what there is to see.
    clock.set(-400)
    balancer.spare.kill()
    wait_until(lambda: balancer.backend("spare", "b1")["health"] == "down", "the failure is seen")
    clock.set(400)
    balancer.spare = start_spare(balancer)
    wait_until(lambda: balancer.backend("spare", "b1")["health"] == "up", "and its end")
    connections = kept.finish()
    assert len(connections) == 30 and [c for c in connections if c["error"] or len(c["backends"]) != 1] == []
    balancer.change("confirm")
    assert weights(balancer) == [70] * 3
    assert balancer.backend("spare", "b1")["health"] == "up"
    assert balancer.dataplane_report()["dataplane"]["starts"] == 1


def restart(balancer, clock):
    balancer.sluiced.kill()
    balancer.start_sluiced(env=clock.env)
    balancer.wait_answering()


def test_a_confirmation_over_a_restart_and_a_jump_waits_no_longer_than_was_asked(balancer, clock):
    """A successor has only the wall clock to go by. Back: it waits anew, at most as long as was asked. Forward: the time is
    up. Either way the configuration that was not confirmed goes, and decisions and health stay."""
    balancer.change("backend", "drain", "web/b3", "--reset-after", "1h")
    apply(balancer, 71, "--confirm", "3s")
    balancer.sluiced.kill()
    clock.set(-400)
    restart(balancer, clock)
    wait_until(lambda: weights(balancer) == [100] * 3, "back to what was before", 20.0)
    apply(balancer, 72, "--confirm", "10m")
    restart(balancer, clock)
    assert weights(balancer) == [72] * 3, "still on trial"
    balancer.sluiced.kill()
    clock.set(400)
    restart(balancer, clock)
    wait_until(lambda: weights(balancer) == [100] * 3, "the time is up", 20.0)
    b3 = balancer.backend("web", "b3")
    assert b3["admin"] == "drain" and 0 < b3["reset_in_s"] <= 3600, "no wall clock is asked when it will be reset"
    assert {b["health"] for b in balancer.backends().values()} == {"up"}
    assert "backend_down" not in {e["kind"] for e in balancer.show("show", "events")["events"]}
