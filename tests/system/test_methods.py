"""How new connections are given out: each method with real connections, as its definition says."""

import pytest

from fabric import BACKENDS, VIPS4
from lab import wait_until
from sluice import on_fabric, service
from traffic import KeepAlive, curl_many

TURN, WEIGHTED, LEAST, SOURCE = VIPS4
CONFIG = "".join((
    service("turn", TURN, "ipip", on_fabric(), more='method = "round-robin"'),
    service("weighted", WEIGHTED, "ipip", on_fabric({"b1": 300, "b2": 200, "b3": 100}),
            more='method = "weighted-round-robin"'),
    service("least", LEAST, "ipip", on_fabric(), more='method = "least-connections"'),
    service("source", SOURCE, "ipip", on_fabric(), more='method = "source-hash"'),
))


def asked(balancer, vip, count, client="c1"):
    """Backend: how many of so many new connections it got; each from ports that nobody has used yet."""
    source = balancer.fabric.fresh_address(client)
    results = curl_many(balancer.fabric.hosts[client], vip, count, source=source)
    assert results.failures == []
    return results.by_backend


def test_round_robin_is_exact(balancer):
    assert asked(balancer, TURN, 300) == {"b1": 100, "b2": 100, "b3": 100}


def test_weighted_round_robin_is_exact(balancer):
    assert asked(balancer, WEIGHTED, 600) == {"b1": 300, "b2": 200, "b3": 100}


def test_a_drained_backend_has_no_turn(balancer):
    balancer.change("backend", "drain", "turn/b2")
    try:
        assert asked(balancer, TURN, 100) == {"b1": 50, "b3": 50}
    finally:
        balancer.change("backend", "ready", "turn/b2")


def test_least_connections_fill_up_the_one_that_lost_its_own(balancer):
    """90 connections stay open, 30 on each; a failed backend's go to the others, and when it is back the next ones are
    its own until it has as many."""
    held = KeepAlive(balancer.fabric.hosts["c1"], LEAST, connections=90)

    def active():
        return [balancer.backend("least", name)["flows_active"] for name in BACKENDS]
    wait_until(lambda: active() == [30, 30, 30], lambda: f"30 each: {active()}")
    balancer.change("backend", "maint", "least/b3")
    wait_until(lambda: active()[2] == 0, lambda: f"b3 has none: {active()}")
    balancer.change("backend", "ready", "least/b3")
    before = active()
    new = KeepAlive(balancer.fabric.hosts["c2"], LEAST, connections=30)
    wait_until(lambda: sum(active()) >= sum(before) + 30, lambda: f"30 more: {active()}")
    gone_to = {c["backends"][0] for c in new.finish()}
    held.finish()
    assert gone_to == {"b3"}


def test_a_client_stays_together(balancer):
    for client in ("c1", "c2"):
        host = balancer.fabric.hosts[client]
        first, second = curl_many(host, SOURCE, 30), curl_many(host, SOURCE, 30)
        assert first.failures == second.failures == []
        assert len(first.by_backend) == 1
        assert first.by_backend == second.by_backend


@pytest.mark.parametrize("vip, words", [(TURN, "the next in turn"), (LEAST, "fewest active flows"),
                                        (SOURCE, "the client's address alone decides")])
def test_explain_says_how(balancer, vip, words):
    why = balancer.cli("explain", "tcp", "198.51.100.9:4000", f"{vip}:80").stdout
    assert words in why
    methods = {s["name"]: s["method"] for s in balancer.show("show", "services")["services"]}
    assert methods == {"turn": "round-robin", "weighted": "weighted-round-robin", "least": "least-connections",
                       "source": "source-hash"}
