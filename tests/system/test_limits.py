"""Limits of backends under real connections: as many as they may have, no one more, and whoever scales them is told."""

import pytest

from conftest import make_fabric
from fabric import BACKENDS, VIPS4
from lab import wait_until
from sluice import Balancer, on_fabric, service
from traffic import KeepAlive, curl_once

WEB = VIPS4[0]
MOST = 10


@pytest.fixture(scope="module")
def balancer():
    fabric = make_fabric()
    try:
        more = (f'max_flows = {MOST}\nscale_up_at = "80%"\nscale_down_at = "30%"\n'
                'idle_timeout = { syn = "2s", closing = "1s" }')
        yield Balancer(fabric, service("web", WEB, "ipip", on_fabric(), more=more)).start()
    finally:
        fabric.close()


def kinds(balancer):
    return [event["kind"] for event in balancer.show("show", "events")["events"] if event["kind"].startswith("scale")]


def test_backends_get_as_many_flows_as_they_may_have(balancer):
    host = balancer.fabric.hosts["c1"]
    wait_until(lambda: kinds(balancer) == ["scale_down"], lambda: f"nearly empty: {kinds(balancer)}")
    clients = KeepAlive(host, WEB, connections=MOST * len(BACKENDS))
    wait_until(lambda: sum(b["flows_active"] for b in balancer.backends().values()) == MOST * len(BACKENDS),
               lambda: balancer.cli("show", "backends").stdout)
    for name in BACKENDS:
        backend = balancer.backend("web", name)
        assert (backend["flows_active"], backend["max_flows"], backend["full_percent"]) == (MOST, MOST, 100.0)
    assert "100%" in balancer.cli("show", "backends").stdout
    wait_until(lambda: kinds(balancer)[-1] == "scale_up", lambda: f"full: {kinds(balancer)}")
    said = balancer.show("explain", "tcp", "198.51.100.2:3", f"{WEB}:80")
    assert (said["verdict"], said["reason"]) == ("drop", "backends_full")
    for name in BACKENDS:
        assert f"{name} is full: it has {MOST} flows (max_flows {MOST})" in said["why"]
    # One more finds nobody, and is counted by name; those that are there go on.
    dropped = balancer.reasons()["backends_full"]
    assert curl_once(host, WEB, "/", "--connect-timeout", "1") == (0, "")
    assert balancer.reasons()["backends_full"] > dropped
    results = clients.finish()
    assert [c for c in results if c["error"] or len(c["backends"]) != 1] == []
    assert sorted(c["backends"][0] for c in results) == sorted([*BACKENDS] * MOST)
    # They have ended: there is room, and too much of it.
    wait_until(lambda: kinds(balancer)[-1] == "scale_down", lambda: f"empty again: {kinds(balancer)}", 20.0)
    assert curl_once(host, WEB)[0] == 200


def test_what_was_told_of_the_load_outlives_sluiced(balancer):
    """The successor knows that fewer backends would do: it does not say so again, and says when that is over."""
    wait_until(lambda: kinds(balancer)[-1] == "scale_down", lambda: f"empty: {kinds(balancer)}", 20.0)
    # Whatever there was to publish is published with these.
    balancer.change("backend", "drain", "web/b1")
    balancer.change("backend", "ready", "web/b1")
    balancer.sluiced.kill()
    balancer.start_sluiced()
    balancer.wait_ready()
    clients = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=MOST * len(BACKENDS) // 2)
    wait_until(lambda: kinds(balancer) != [], lambda: balancer.cli("show", "backends").stdout)
    assert kinds(balancer) == ["scale_ok"]
    clients.finish()
