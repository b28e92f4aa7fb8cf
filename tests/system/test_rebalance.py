"""sluice rebalance with the real processes: sessions go to who has too little to do, connections stay."""

import json
import sys
from pathlib import Path

import pytest

from fabric import VIPS4, program
from lab import wait_until
from sluice import HEALTH, on_fabric, service
from test_interfaces import Connection
from test_sessions import HEALTH_OF_HTTP, ask_all, held
from traffic import KeepAlive

WEB, SHOP, GAME = VIPS4[0], VIPS4[2], VIPS4[3]
HERE = Path(__file__).resolve().parent
TWO = {"b1": 100, "b2": 100}
KEYS = 8
CONFIG = "".join((
    *(service(name, vip, "ipip", on_fabric(TWO), health=HEALTH, more='affinity = "client"\nidle_timeout = '
              f'{{ syn = "2s", established = "4s", closing = "2s", session = "{session}" }}\n')
      for name, vip, session in (("web", WEB, "60s"), ("shop", SHOP, "1h"))),
    service("game", GAME, "ipip", on_fabric(TWO), port=9000, protocol="udp", health=HEALTH_OF_HTTP,
            more='affinity = "key"\nkey = { offset = 0, bytes = 2 }\nidle_timeout = { udp = "8s", session = "8s" }\n'),
    service("plain", VIPS4[1], "ipip", on_fabric(TWO)),
))


@pytest.fixture(autouse=True)
def ready(balancer):
    yield
    balancer.cli("overrides", "clear", check=False)
    balancer.wait_ready()


def only_b1(balancer, name):
    balancer.change("backend", "weight", f"{name}/b2", "0")
    wait_until(balancer.workers_current, "the worker knows")


def both_again(balancer, name):
    balancer.change("backend", "weight", f"{name}/b2", "100")
    wait_until(balancer.workers_current, "the worker knows")


def by_name(answer):
    return {backend["backend"]: backend for backend in answer["backends"]}


def audits(balancer):
    return [e["text"] for e in balancer.show("show", "events", "--kind", "audit")["events"]]


def test_keys_move_with_their_datagrams(balancer):
    for name in TWO:
        balancer.fabric.hosts[name].start("game", [sys.executable, HERE / "udp_echo.py", name, GAME, 9000])
    only_b1(balancer, "game")
    clients = balancer.fabric.hosts["c1"].start(
        "keys", [sys.executable, HERE / "udp_keys.py", GAME, 9000, KEYS, 20])

    def keys_on():
        sessions = [held(balancer, f"{key:04x}", "game") for key in range(KEYS)]
        return [session and session["backend"] for session in sessions]
    wait_until(lambda: keys_on() == ["b1"] * KEYS, keys_on)
    balancer.change("session", "pin", "game", "0007", "b1")
    both_again(balancer, "game")

    # Shown, and nothing done.
    plan = balancer.show("rebalance", "game", "--dry-run", "--over", "1s")
    assert "moved" not in plan and 3 <= plan["planned"] <= 4, plan
    assert plan["imbalance_percent"] == pytest.approx(50) and plan["expected_imbalance_percent"] < 20
    b1, b2 = by_name(plan)["b1"], by_name(plan)["b2"]
    assert (b1["sessions"], b1["pinned"], b2["sessions"], b2["packets"]) == (KEYS, 1, 0, 0)
    assert keys_on() == ["b1"] * KEYS

    # As far as it may, and then all.
    done = balancer.show("rebalance", "game", "--over", "1s", "--max-moves", "1")
    assert (done["planned"], done["moved"]) == (1, 1) and keys_on().count("b2") == 1
    # Who goes takes the rest along.
    asked = balancer.host.start("rebalance", [program("controlplane/sluice"), "--dir", balancer.directory, "rebalance",
                                              "game", "--over", "2s", "--rate", "1/s"])
    wait_until(lambda: keys_on().count("b2") == 2, keys_on)
    asked.kill()
    wait_until(lambda: any("of 3 sessions moved, then the client went" in text for text in audits(balancer)),
               lambda: audits(balancer))
    assert keys_on().count("b2") < 4
    balancer.show("rebalance", "game", "--over", "3s", "--rate", "2/s")
    on = keys_on()
    assert 3 <= on.count("b2") <= 4 and on[7] == "b1", on

    def packets():
        return [balancer.backend("game", name)["packets"] for name in TWO]
    # Datagrams follow within a second or so: all of them, as the sockets never changed.
    began = packets()
    wait_until(lambda: all(now > then + 200 for now, then in zip(packets(), began)), packets)
    wait_until(lambda: {name: b["flows_active"] for name, b in by_name(
        balancer.show("rebalance", "game", "--dry-run", "--over", "1s")).items()} == {
            name: on.count(name) for name in TWO}, "each flow is where its session is")
    assert clients.stop() == 0
    seen = json.loads(clients.output().splitlines()[-1])
    assert seen == [["b1"] if backend == "b1" else ["b1", "b2"] for backend in on]
    said = audits(balancer)
    assert any(" rebalance " in text and '"1 of 1 sessions moved"' in text for text in said), said
    assert not any("rebalance.plan" in text for text in said), "who only looks changes nothing"


def test_who_goes_while_it_measures_keeps_nobody_waiting(balancer):
    def refused():
        return balancer.cli("rebalance", "game", "--over", "1s", check=False).stderr
    client = Connection(balancer.directory / "control.sock")
    client.send(cmd="rebalance", service="game", over_s=60)
    assert client.receive()["measuring_s"] == 60
    assert "sessions are being moved already" in refused()
    client.close()
    wait_until(lambda: refused() == "", "another one may begin", 20.0)
    said = [text for text in audits(balancer) if "over_s=60" in text]
    assert len(said) == 1 and "the client went before anything was moved" in said[0], said


def test_a_session_table_that_is_made_anew_is_told(balancer):
    """The data plane is started with another --sessions-max while it measures, and while it moves."""
    def start_with_another_table(sessions_max):
        balancer.dataplane.kill()
        (balancer.directory / "flows").unlink()  # as that start does, a moment earlier
        balancer.start_dataplane("--sessions-max", sessions_max)

    def end_of(client):
        while "ok" not in (answer := client.receive()):
            pass
        client.close()
        return answer
    client = Connection(balancer.directory / "control.sock")
    client.send(cmd="rebalance", service="game", over_s=2)
    client.receive()
    start_with_another_table(500_000)
    answer = end_of(client)
    assert not answer["ok"] and "began anew with another session table" in answer["error"] and answer["remedy"], answer
    balancer.wait_ready()

    only_b1(balancer, "game")
    clients = balancer.fabric.hosts["c1"].start(
        "keys2", [sys.executable, HERE / "udp_keys.py", GAME, 9000, KEYS, 20])
    wait_until(lambda: all(held(balancer, f"{key:04x}", "game") for key in range(KEYS)), "each key has a session")
    both_again(balancer, "game")
    client = Connection(balancer.directory / "control.sock")
    client.send(cmd="rebalance", service="game", over_s=1, rate=1)
    while "moved" not in (part := client.receive()):
        pass
    start_with_another_table(600_000)
    answer = end_of(client)
    # Which of the two is seen first is a matter of when it looks.
    assert not answer["ok"] and ("another session table" in answer["error"] or "no data plane runs" in answer["error"]), answer
    assert f"; {part['moved']} of {part['of']} sessions were moved" in answer["error"] and answer["remedy"], (part, answer)
    clients.kill()
    balancer.wait_ready()
    balancer.dataplane.kill()
    balancer.start_dataplane()


def test_clients_move_only_when_no_connection_lives(balancer):
    address = lambda: balancer.fabric.fresh_address("c1")
    busy, quiet = [address() for _ in range(4)], [address() for _ in range(4)]
    only_b1(balancer, "web")
    assert set(ask_all(balancer, quiet, WEB).values()) == {"b1"}
    live = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=4, sources=busy)
    wait_until(lambda: all(held(balancer, client) for client in busy), "they are connected")
    both_again(balancer, "web")
    early = balancer.show("rebalance", "web", "--dry-run", "--over", "1s")
    rest_s = early["quiet_s"]
    wait_until(lambda: all(held(balancer, client)["idle_s"] > rest_s for client in quiet), "they are quiet", 60.0)

    said = balancer.cli("rebalance", "web", "--dry-run", "--over", "1s").stdout
    assert f"4 sessions may not move: seen in the last {rest_s} s" in said, said
    assert "4 sessions would be moved; expected then: " in said and "50.0 % of them on the wrong backend" in said, said
    done = balancer.show("rebalance", "web", "--over", "2s")
    b1 = by_name(done)["b1"]
    assert (b1["sessions"], b1["live"], done["moved"], done["left_alone"]) == (8, 4, 4, 0), done
    assert [held(balancer, client)["backend"] for client in busy + quiet] == ["b1"] * 4 + ["b2"] * 4
    assert set(ask_all(balancer, quiet, WEB).values()) == {"b2"}
    assert "nothing to move\n" in balancer.cli("rebalance", "web", "--over", "1s").stdout, "who is left has connections"
    connections = live.finish()
    assert [(c["backends"], c["error"]) for c in connections] == [(["b1"], None)] * 4
    assert all(c["requests"] > 100 for c in connections)


def test_connections_are_reset_when_asked(balancer):
    clients = [balancer.fabric.fresh_address("c1") for _ in range(4)]
    only_b1(balancer, "shop")
    live = KeepAlive(balancer.fabric.hosts["c1"], SHOP, connections=4, sources=clients)
    wait_until(lambda: all(held(balancer, client, "shop") for client in clients), "they are connected")
    both_again(balancer, "shop")
    said = balancer.cli("rebalance", "shop", "--dry-run", "--reset", "--over", "1s").stdout
    assert "2 of those to move were seen in the last " in said and "their connections are reset\n" in said, said
    assert [held(balancer, client, "shop")["backend"] for client in clients] == ["b1"] * 4, "shown, and nothing done"
    done = balancer.show("rebalance", "shop", "--reset", "--over", "1s")
    assert (done["planned"], done["planned_live"], done["moved"], done["left_alone"]) == (2, 2, 2, 0), done
    on = {client: held(balancer, client, "shop")["backend"] for client in clients}
    assert sorted(on.values()) == ["b1", "b1", "b2", "b2"]
    assert any('"2 of 2 sessions moved, connections reset"' in text for text in audits(balancer)), audits(balancer)

    def reset():
        return sum(worker["flows"]["reset"] for worker in balancer.dataplane_report()["dataplane"]["workers"])
    # At once: by themselves connections look after their session every 128 s.
    wait_until(lambda: reset() == 2, reset)
    assert ask_all(balancer, clients, SHOP) == on, "each client's next connection goes where its session is"
    ends = live.finish()
    assert sorted((c["backends"], c["error"] is not None) for c in ends) == [
        (["b1"], False), (["b1"], False), (["b1"], True), (["b1"], True)], ends
    assert reset() == 2


def test_what_cannot_be_is_refused(balancer):
    for arguments, words in ((("plain",), "service 'plain' has no sessions"), (("wob",), "no service 'wob'"),
                             (("web", "--rate", "fast"), "rate 'fast' is not 100/s"),
                             (("web", "--rate", "0/s"), "from 1 to 10000"),
                             (("web", "--over", "90s"), "from 1 to 60"), (("web", "--max-moves", "0"), "from 1 to 100000")):
        result = balancer.cli("rebalance", *arguments, check=False)
        assert result.returncode != 0 and words in result.stderr, (arguments, result)
