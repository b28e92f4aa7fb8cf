"""What clients see when backends fail: panic, a sorry backend, resets, slow start, and a backend that vanishes."""

import math
import sys

import pytest

from conftest import make_fabric
from fabric import BACKENDS, VIPS4, VIPS6
from lab import wait_until
from sluice import Balancer, on_fabric, service
from traffic import KeepAlive, curl_many

PANIC, SORRY, RESET, SLOW = VIPS4
HINT = VIPS6[0]
PANIC_PORT, SORRY_PORT, SLOW_PORT = 8081, 8082, 8083
RAMP_S = 10


def check(port=80, times='interval = "200ms", timeout = "150ms"'):
    return f'{{ type = "tcp", port = {port}, {times}, rise = 2, fall = 2 }}'


CONFIG = "".join((
    service("panic", PANIC, "ipip", on_fabric(), health=check(PANIC_PORT), more="min_healthy = 2"),
    service("sorry", SORRY, "l2dsr", on_fabric({"b1": 100, "b2": 100}), health=check(SORRY_PORT),
            more='quorum = 2\nsorry = { name = "apology", address = "10.0.1.13" }'),
    service("reset", RESET, "ipip", on_fabric(), health=check(), more='on_failure = "reset"'),
    service("slow", SLOW, "ipip", on_fabric(), health=check(SLOW_PORT), more=f'slow_start = "{RAMP_S}s"'),
    # Checked so rarely that no check finds anything while a test runs.
    service("hint", HINT, "ipip", on_fabric(ipv6=True),
            health=check(times='interval = "5m", fast_interval = "500ms", timeout = "400ms"')),
))


class Servers:
    """That are there to be checked: one for each backend and port. They are no part of what clients see."""

    def __init__(self, fabric):
        self.fabric = fabric
        self.processes = {}

    def mend(self, name, port):
        process = self.fabric.hosts[name].start(f"check-{port}", [sys.executable, "-m", "http.server", port])
        self.fabric.wait_listening(name, port, process)
        self.processes[name, port] = process

    def fail(self, name, port):
        self.processes[name, port].kill()


@pytest.fixture(scope="module")
def checked():
    fabric = make_fabric()
    try:
        servers = Servers(fabric)
        for port in (PANIC_PORT, SORRY_PORT, SLOW_PORT):
            for name in BACKENDS:
                servers.mend(name, port)
        yield servers
    finally:
        fabric.close()


@pytest.fixture(scope="module")
def balancer(checked):
    return Balancer(checked.fabric, CONFIG).start()


@pytest.fixture(autouse=True)
def all_serve(balancer, checked):
    """Each test begins with every backend up."""
    def up():
        return all(b["health"] == "up" for b in balancer.backends().values())
    wait_until(lambda: up() and balancer.workers_current(), lambda: balancer.cli("show", "backends").stdout, 40.0)


def state(balancer, name):
    return balancer.services()[name]["state"]


def wait_state(balancer, name, wanted, timeout_s=10.0):
    wait_until(lambda: state(balancer, name) == wanted and balancer.workers_current(),
               lambda: f"{name} is {wanted}\n{balancer.cli('show', 'services').stdout}", timeout_s)


def serve_all(balancer, vip, count=300):
    results = curl_many(balancer.fabric.hosts["c1"], vip, count)
    assert results.failures == []
    assert results.total == count
    return results.by_backend


def cut(balancer, name, up=False):
    """The switch's port goes down: the host is gone from one moment to the next, and says nothing to anybody."""
    balancer.fabric.hosts["net"].ip(f"link set {name} {'up' if up else 'down'}")


def test_below_min_healthy_all_backends_serve_and_it_is_announced(balancer, checked):
    """Two of three checks fail, though the servers are well: what panic is for."""
    checked.fail("b1", PANIC_PORT)
    wait_until(lambda: not balancer.backend("panic", "b1")["takes_new_flows"], "panic/b1 is down")
    assert state(balancer, "panic") == "serving"
    checked.fail("b2", PANIC_PORT)
    wait_state(balancer, "panic", "panic")
    assert set(serve_all(balancer, PANIC)) == set(BACKENDS)
    assert "panic: panic, 1 of 3 ready backends are healthy" in balancer.sluiced.output()
    # Those in drain stay out.
    balancer.change("backend", "drain", "panic/b1")
    assert set(serve_all(balancer, PANIC)) == {"b2", "b3"}
    balancer.change("backend", "ready", "panic/b1")
    checked.mend("b1", PANIC_PORT)
    wait_state(balancer, "panic", "serving")
    assert set(serve_all(balancer, PANIC)) == {"b1", "b3"}
    assert "panic: panic is over" in balancer.sluiced.output()
    checked.mend("b2", PANIC_PORT)


def test_the_sorry_backend_serves_while_quorum_is_lost(balancer, checked):
    assert set(serve_all(balancer, SORRY)) == {"b1", "b2"}
    checked.fail("b2", SORRY_PORT)
    wait_state(balancer, "sorry", "sorry")
    assert set(serve_all(balancer, SORRY)) == {"b3"}
    kept = KeepAlive(balancer.fabric.hosts["c2"], SORRY, connections=20)
    wait_until(lambda: balancer.backend("sorry", "apology")["flows_active"] >= 20, "connections to the sorry backend")
    checked.mend("b2", SORRY_PORT)
    wait_state(balancer, "sorry", "serving")
    assert set(serve_all(balancer, SORRY)) == {"b1", "b2"}
    connections = kept.finish()
    assert [c for c in connections if c["error"] or c["backends"] != ["b3"]] == [], "they end where they began"
    log = balancer.sluiced.output()
    for sentence in ("sorry: quorum lost", "new flows go to the sorry backend apology", "sorry: quorum is back",
                     "sorry: new flows go to the backends again"):
        assert sentence in log


def test_a_returning_backend_gets_its_share_slowly(balancer, checked):
    checked.fail("b3", SLOW_PORT)
    wait_until(lambda: balancer.backend("slow", "b3")["health"] == "down", "slow/b3 is down")
    checked.mend("b3", SLOW_PORT)
    wait_until(lambda: balancer.backend("slow", "b3")["takes_new_flows"] and balancer.workers_current(), "slow/b3 is up")
    before = balancer.backend("slow", "b3")["weight_in_force"]
    count = 900
    by_backend = serve_all(balancer, SLOW, count)
    after = balancer.backend("slow", "b3")["weight_in_force"]
    assert before < 100 and before <= after, "the ramp was under way"
    assert balancer.backend("slow", "b3")["weight"] == 100

    def bound(weight, deviations):
        share = weight / (200 + weight)
        return count * share + deviations * math.sqrt(count * share * (1 - share))
    assert bound(before, -4) <= by_backend["b3"] <= bound(after, 4), (before, after, by_backend)
    wait_until(lambda: balancer.backend("slow", "b3")["weight_in_force"] == 100, "the ramp's end", RAMP_S + 15.0)
    assert 32 < balancer.backend("slow", "b3")["share_percent"] < 35


def test_clients_of_a_lost_backend_are_told_by_a_reset(balancer):
    """The backend's host vanishes, so nobody but the balancer can tell its clients."""
    clients = KeepAlive(balancer.fabric.hosts["c1"], RESET, connections=60)
    wait_until(lambda: sum(balancer.backend("reset", name)["flows_active"] for name in BACKENDS) >= 60, "60 connections")
    answered = balancer.accounting()["answered"]
    cut(balancer, "b2")
    try:
        wait_until(lambda: balancer.backend("reset", "b2")["health"] == "down", "reset/b2 is down")
        wait_until(lambda: balancer.backend("reset", "b2")["flows_active"] == 0, "every client of it has been told", 20.0)
        connections = clients.finish()
    finally:
        cut(balancer, "b2", up=True)
    lost = [c for c in connections if "b2" in c["backends"]]
    assert len(connections) == 60 and len(lost) > 5
    assert [c["error"] for c in lost if not c["error"].startswith("ConnectionResetError")] == []
    assert [c for c in connections if "b2" not in c["backends"] and c["error"]] == []
    assert balancer.accounting()["answered"] - answered == len(lost)


def test_repeated_syns_hint_at_a_backend_that_is_gone(balancer):
    """No check is due for minutes; its clients' SYNs tell. The last test: for minutes none will find it up again, either."""
    cut(balancer, "b1")
    try:
        balancer.fabric.hosts["c1"].start(
            "lost", ["curl", "-s", "-Z", "--parallel-immediate", "--parallel-max", "60", "--connect-timeout", "8", "-o", "/dev/null",
                     f"http://[{HINT}]:80/#[1-120]"])
        wait_until(lambda: balancer.backend("hint", "b1")["health"] == "down",
                   lambda: balancer.sluiced.output()[-1500:], 20.0)
    finally:
        cut(balancer, "b1", up=True)
    assert "hint/b1 may be gone" in balancer.sluiced.output()
    assert "hint/b2 may be gone" not in balancer.sluiced.output()
