"""Sessions end to end: clients stay where they are whatever changes around them, and the registry tells, moves and keeps
them as it says."""

import json

import pytest

from fabric import BACKENDS, VIPS4
from lab import wait_until
from sluice import on_fabric, service
from traffic import curl_once, url

WEB, WAITS, BACK, PLAIN = VIPS4
SESSIONS = 'affinity = "client"\nidle_timeout = { session = "1h" }\n'
CONFIG = "".join((
    service("web", WEB, "ipip", on_fabric(), more=SESSIONS),
    service("waits", WAITS, "ipip", on_fabric(), more=SESSIONS + 'on_failure = "keep"'),
    service("back", BACK, "ipip", on_fabric(), more=SESSIONS + 'on_failure = "return"'),
    service("plain", PLAIN, "ipip", on_fabric({"b1": 100, "b2": 100})),
))
NOT_THERE = 1


@pytest.fixture
def clients(balancer):
    """Makes new clients: addresses that nobody has seen."""
    return lambda count: [balancer.fabric.fresh_address("c1") for _ in range(count)]


@pytest.fixture(autouse=True)
def as_configured(balancer):
    yield
    for process, start in ((balancer.dataplane, balancer.start_dataplane), (balancer.sluiced, balancer.start_sluiced)):
        if not process.running():
            start()
    balancer.wait_answering()
    balancer.cli("overrides", "clear", check=False)
    for name, nginx in balancer.fabric.nginx.items():
        if not nginx.running():
            balancer.fabric.start_nginx(name)
    balancer.wait_ready()


def ask(balancer, client, vip=WEB):
    """Who serves a new connection of this client."""
    status, backend = curl_once(balancer.fabric.hosts["c1"], vip, "/", "--interface", client)
    assert status == 200, (client, vip, status)
    return backend


def ask_all(balancer, clients, vip=WEB):
    """The same for many, one curl for all: {client: backend}."""
    transfers = []
    for client in clients:
        transfers += ["--next"] if transfers else []
        transfers += ["-s", "--max-time", "10", "-H", "Connection: close", "--interface", client, "-o", "/dev/null",
                      "-w", f"{client} %{{http_code}} %header{{x-backend}}\n", url(vip)]
    lines = balancer.fabric.hosts["c1"].run("curl", *transfers, check=False, timeout=120).stdout.splitlines()
    answers = [line.split() for line in lines]
    assert all(answer[1] == "200" for answer in answers) and len(answers) == len(clients), answers
    return {client: backend for client, _, backend in answers}


def held(balancer, client, name="web"):
    """What the table has of this client, or None."""
    sessions = balancer.show("session", "show", name, client)["sessions"]
    return sessions[0] if sessions else None


def other_than(backend):
    return next(name for name in BACKENDS if name != backend)


def refused(balancer, *arguments):
    result = balancer.cli("session", *arguments, check=False)
    return result.returncode, result.stderr


# ---- Pins ---------------------------------------------------------------------------------------------------------------


def test_a_pin_decides_for_new_connections_until_it_is_taken_off(balancer, clients):
    client, neighbour = clients(2)
    first, neighbours = ask(balancer, client), ask(balancer, neighbour)
    assert (held(balancer, client)["backend"], held(balancer, client)["kind"]) == (first, "learnt")
    pinned = other_than(first)
    answer = balancer.change("session", "pin", "web", client, pinned)
    assert (answer["before"], answer["after"]) == (f"{first} (learnt)", f"{pinned} (pinned)")
    assert [ask(balancer, client) for _ in range(3)] == [pinned] * 3
    assert ask(balancer, neighbour) == neighbours
    listed = balancer.show("session", "show", "web", "--pinned")
    assert [s["hash"] for s in listed["sessions"]] == [answer["hash"]] and listed["total"] == 1
    assert listed["backends"] == [{"service": "web", "backend": pinned, "sessions": 1, "learnt": 0, "pinned": 1}]

    # Both processes killed: it is in the table, which outlives them.
    balancer.sluiced.kill()
    balancer.dataplane.kill()
    balancer.start_dataplane()
    balancer.start_sluiced()
    balancer.wait_ready()
    assert held(balancer, client)["kind"] == "pinned"
    assert ask(balancer, client) == pinned

    answer = balancer.change("session", "unpin", "web", client)
    assert (answer["before"], answer["after"]) == (f"{pinned} (pinned)", None)
    assert held(balancer, client) is None
    assert ask(balancer, client) == first, "by the lookup table, as at first"
    code, said = refused(balancer, "unpin", "web", client)
    assert code == NOT_THERE and f"it is not pinned: {first} (learnt)" in said
    audits = [e["text"] for e in balancer.show("show", "events", "--kind", "audit")["events"]]
    assert any(f'session.unpin key={client} service=web: "{pinned} (pinned)" -> null' in text for text in audits), audits


def test_a_pin_with_an_end_ends(balancer, clients):
    client, = clients(1)
    first = ask(balancer, client)
    balancer.change("session", "pin", "web", client, other_than(first), "--ttl", "2s")
    assert held(balancer, client)["left_s"] <= 2
    assert ask(balancer, client) == other_than(first)
    wait_until(lambda: ask(balancer, client) == first, "the pin has ended")
    assert held(balancer, client)["kind"] == "learnt"


def test_what_cannot_be_is_refused_with_what_would_be(balancer):
    client = "198.51.100.2"
    before = balancer.show("session", "show", "--count")["backends"]
    for arguments, words in (
            (("pin", "wob", client, "b1"), "no service 'wob'\n  try: did you mean 'web'?"),
            (("pin", "web", client, "b4"), "b4 is not a backend of web: b1, b2, b3"),
            (("pin", "plain", client, "b1"), "service 'plain' has no sessions: its affinity is connection"),
            (("pin", "web", "198.51.100", "b1"), "'198.51.100' is not a client's address"),
            (("pin", "web", "2001:db8::1", "b1"), "different IP versions"),
            (("pin", "web", client, "b1", "--ttl", "900h"), "from 1s to 480h"),
            (("pin", "web", client, "b1", "--ttl", "soon"), "time 'soon' is not 90s"),
            (("unpin", "web", "192.0.2.77"), "there is no such session"),
            (("show", "plain"), "has no sessions"),
            (("show", "web", "--backend", "b4"), "b4 is not a backend of web")):
        code, said = refused(balancer, *arguments)
        assert code != 0 and words in said, (arguments, code, said)
    assert balancer.show("session", "show", "--count")["backends"] == before
    balancer.dataplane.kill()
    code, said = refused(balancer, "pin", "web", client, "b1")
    assert code == 1 and "no data plane runs" in said and "try: " in said
