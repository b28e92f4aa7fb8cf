"""What an operator and failing backends do to traffic: established flows stay where they are, new ones follow."""

import time

import pytest

from fabric import BACKENDS, VIPS4
from lab import wait_until
from sluice import on_fabric, service
from traffic import KeepAlive, Spread, Wrk, curl_many, curl_once

WEB = VIPS4[0]
CONFIG = service("web", WEB, "ipip", on_fabric())


@pytest.fixture(autouse=True)
def all_ready(request):
    """Each test begins with three ready backends of weight 100."""
    yield
    if "balancer" not in request.fixturenames:
        return
    balancer = request.getfixturevalue("balancer")
    for name in BACKENDS:
        balancer.change("backend", "ready", f"web/{name}")
        balancer.change("backend", "weight", f"web/{name}", "100")


def expect_no_flow_moved(connections, opened):
    assert len(connections) == opened
    assert [c for c in connections if c["error"]] == []
    assert [c for c in connections if len(c["backends"]) != 1] == []
    assert all(c["requests"] > 5 for c in connections)


def test_no_established_flow_moves_when_backends_change(balancer, tmp_path):
    """Weights, drain, removal from new flows and back, a backend less and one more in the file: all under one set of
    200 connections that ask every 20 ms, so that every change meets packets of every one of them."""
    clients = [KeepAlive(balancer.fabric.hosts[c], WEB, connections=100) for c in ("c1", "c2")]
    time.sleep(1)
    for command in (("weight", "web/b1", "10"), ("weight", "web/b2", "1000"), ("drain", "web/b3"),
                    ("weight", "web/b1", "0"), ("ready", "web/b3"), ("weight", "web/b1", "300"), ("drain", "web/b2"),
                    ("ready", "web/b2")):
        answer = balancer.change("backend", *command)
        assert answer["acknowledged"] and answer["workers"] == 1
        time.sleep(0.3)
    # A fourth backend: the same server under another name and address.
    more = on_fabric() | {"b4": ("10.0.1.14", 100)}
    balancer.fabric.hosts["b3"].ip("addr add 10.0.1.14/24 dev eth0")
    balancer.write_config(service("web", WEB, "ipip", more))
    balancer.change("reload")
    wait_until(lambda: balancer.backend("web", "b4")["takes_new_flows"], "web/b4 is up")
    time.sleep(0.5)
    balancer.write_config(CONFIG)
    balancer.change("reload")
    time.sleep(0.5)
    for client in clients:
        expect_no_flow_moved(client.finish(), 100)


def test_drain_takes_no_new_connection_and_keeps_the_old(balancer):
    kept = KeepAlive(balancer.fabric.hosts["c2"], WEB, connections=60)
    time.sleep(0.7)
    balancer.change("backend", "drain", "web/b1")
    results = curl_many(balancer.fabric.hosts["c1"], WEB, 600)
    assert results.failures == []
    assert set(results.by_backend) == {"b2", "b3"}
    connections = kept.finish()
    expect_no_flow_moved(connections, 60)
    assert any(c["backends"] == ["b1"] for c in connections), "no old flow was there to be kept"


def test_a_weight_changes_the_spread(balancer):
    answer = balancer.change("backend", "weight", "web/b2", "400")
    assert answer["acknowledged"]
    for _ in range(2):
        results = curl_many(balancer.fabric.hosts["c1"], WEB, 3000, source=balancer.fabric.fresh_address("c1"))
        assert results.failures == []
        spread = Spread(results.by_backend, {"b1": 100, "b2": 400, "b3": 100})
        if spread.ok:
            break
    assert spread.ok, spread.text()


def test_no_request_fails_while_weights_change_and_backends_drain(balancer):
    runs = [Wrk(balancer.fabric.hosts["c1"], WEB, 6, connections=24, new_connections=False),
            Wrk(balancer.fabric.hosts["c2"], WEB, 6, connections=12, new_connections=True)]
    for round_number in range(8):
        name = BACKENDS[round_number % 3]
        balancer.change("backend", "weight", f"web/{name}", str(50 + 100 * round_number))
        balancer.change("backend", "drain", f"web/{name}")
        time.sleep(0.2)
        balancer.change("backend", "ready", f"web/{name}")
        time.sleep(0.3)
    for run in runs:
        run.finish()
        assert run.failed == 0
        assert run.requests > 1000


def test_a_failed_backend_is_out_after_fall_checks_and_back_after_rise(balancer):
    fabric = balancer.fabric
    fabric.nginx["b3"].kill()
    wait_until(lambda: balancer.backend("web", "b3")["health"] == "down", "web/b3 is down")
    seen = balancer.backend("web", "b3")
    assert seen["check"]["result"] == "L4CON"
    assert seen["slots"] == 0
    wait_until(balancer.workers_current, "the workers know")
    results = curl_many(fabric.hosts["c1"], WEB, 300)
    assert results.failures == []
    assert set(results.by_backend) == {"b1", "b2"}
    fabric.start_nginx("b3")
    wait_until(lambda: balancer.backend("web", "b3")["takes_new_flows"] and balancer.workers_current(), "web/b3 is up")
    results = curl_many(fabric.hosts["c1"], WEB, 300)
    assert results.failures == []
    assert set(results.by_backend) == set(BACKENDS)


def test_a_backend_that_answers_with_an_error_is_out(balancer):
    """HTTP checks look at the status, not only at the port."""
    balancer.write_config(CONFIG.replace('path = "/health"', 'path = "/no-such-page"'))
    balancer.change("reload")

    def all_down():
        return all(b["check"]["result"] == "L7STS" and b["health"] == "down" for b in balancer.backends().values())
    wait_until(all_down, "all backends are down by L7STS")
    assert curl_once(balancer.fabric.hosts["c1"], WEB, "/", "--connect-timeout", "1")[0] == 0
    assert balancer.reasons()["no_backend"] > 0
    balancer.write_config(CONFIG)
    balancer.change("reload")
    balancer.wait_ready()
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200


def test_explain_says_where_a_connection_went(balancer):
    client = balancer.fabric.hosts["c1"]
    asked = 0
    for port in range(30000, 30200):
        said = balancer.show("explain", "tcp", f"198.51.100.2:{port}", f"{WEB}:80")
        if "flow" in said:
            continue  # the port was used a moment ago: a SYN on that closing flow would be selected afresh
        asked += 1
        status, backend = curl_once(client, WEB, "/", "--local-port", str(port))
        assert status == 200
        assert said["backend"] == backend
        if asked == 10:
            break
    assert asked == 10


def test_without_affinity_a_drained_backend_gets_nothing_more(balancer):
    """Requests of one packet each way (DNS-like) need no flows: a second service tracks none, and moves at once."""
    stateless = service("echo", WEB, "ipip", on_fabric(), port=81, health='{ type = "none" }', more='affinity = "none"')
    balancer.write_config(CONFIG + stateless)
    balancer.change("reload")
    try:
        host = balancer.fabric.hosts["c1"]
        for name in BACKENDS:
            balancer.fabric.hosts[name].start("http-81", ["/usr/bin/python3", "-m", "http.server", "81", "--bind", WEB])

        def codes(count):
            return host.run("curl", "-s", "-Z", "--max-time", "5", "-H", "Connection: close", "-o", "/dev/null", "-w", "%{http_code} ",
                            f"http://{WEB}:81/#[1-{count}]", check=False).stdout.split()
        wait_until(lambda: codes(30) == ["200"] * 30, "the servers of port 81 answer")
        flows = balancer.show("show", "flows")["total"]
        balancer.change("backend", "drain", "echo/b1")
        assert codes(100) == ["200"] * 100
        shown = {b["name"]: b for b in balancer.show("show", "backends", "echo")["backends"]}
        assert all(b["flows_active"] == 0 for b in shown.values())
        assert balancer.show("show", "flows")["total"] <= flows
        why = balancer.cli("explain", "tcp", "198.51.100.9:4000", f"{WEB}:81").stdout
        assert "no affinity: each packet goes by the lookup table alone" in why
    finally:
        balancer.write_config(CONFIG)
        balancer.change("reload")


def test_a_thousand_backends_die_at_once_and_come_back(balancer):
    """100 services of 10, all behind one host that is cut off: each is named, everybody else's connections go on, sluiced
    answers meanwhile, and all is well again without a restart."""
    services, each = 100, 10
    host = balancer.fabric.hosts["b3"]
    host.ip("route add local 10.9.0.0/16 dev lo")
    balancer.host.ip("route add 10.9.0.0/16 via 10.0.1.13")
    host.start("many", ["/usr/bin/python3", "-c", "import socket\ns = socket.create_server(('0.0.0.0', 8080), backlog=4096)\n"
                        "while True: s.accept()[0].close()\n"])
    check = '{ type = "tcp", port = 8080, interval = "1s", timeout = "900ms", rise = 1, fall = 1 }'
    many = "".join(service(f"m{s}", f"198.18.0.{s + 1}", "ipip",
                           {f"b{b}": (f"10.9.{s}.{b + 1}", 100) for b in range(each)}, health=check) for s in range(services))

    def up():
        return sum(s["backends_up"] for s in balancer.services().values() if s["name"] != "web")

    pid = balancer.sluiced.pid
    balancer.write_config(CONFIG + many)
    balancer.change("reload")
    try:
        wait_until(lambda: up() == services * each, lambda: f"{up()} are up", 60.0)
        clients = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=50)
        time.sleep(0.5)
        said = balancer.sluiced.output().count(" is down: ")
        host.ip("route add unreachable 10.9.0.0/17 table local", "route add unreachable 10.9.128.0/17 table local")
        wait_until(lambda: up() == 0, lambda: f"{up()} are still up", 60.0)
        wait_until(balancer.workers_current, "the worker has acknowledged that")
        assert curl_once(balancer.fabric.hosts["c2"], WEB)[0] == 200
        down = [line for line in balancer.sluiced.output().splitlines() if " is down: " in line]
        assert len(down) - said >= services * each and "m99/b9 is down" in "\n".join(down)
        assert {s["state"] for s in balancer.services().values() if s["name"] != "web"} == {"down"}
        host.ip("route del unreachable 10.9.0.0/17 table local", "route del unreachable 10.9.128.0/17 table local")
        wait_until(lambda: up() == services * each, lambda: f"{up()} are up again", 60.0)
        expect_no_flow_moved(clients.finish(), 50)
        assert balancer.sluiced.pid == pid and balancer.sluiced.running()
    finally:
        balancer.write_config(CONFIG)
        balancer.change("reload")
