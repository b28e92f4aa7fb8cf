"""An operator looks at real traffic and takes a backend, or a service, out of it: what the commands say is what clients,
servers and the NIC saw."""

import json
import time

import pytest

from fabric import BACKENDS, CLIENTS, VIPS4, program
from lab import wait_until
from sluice import on_fabric, service
from test_interfaces import samples
from traffic import KeepAlive, curl_many

WEB, REST = VIPS4[:2]
HTTP = "127.0.0.1:9095"
CLOSING_S = 1
CONFIG = f'[http]\nlisten = "{HTTP}"\n' + "".join((
    service("web", WEB, "ipip", on_fabric(), more=f'idle_timeout = {{ syn = "2s", closing = "{CLOSING_S}s" }}'),
    service("rest", REST, "l2dsr", on_fabric({"b1": 100, "b2": 100}), more='on_failure = "keep"'),
))
TIME_IS_UP = 6


@pytest.fixture
def all_ready(balancer):
    yield
    for name in BACKENDS:
        balancer.change("backend", "ready", f"web/{name}")
    balancer.change("service", "enable", "web")
    balancer.wait_ready()


def in_flow_tables(balancer):
    """{backend of web: established flows}, counted entry by entry."""
    return {b["backend"]: b["established"] for b in balancer.show("show", "flows", "web")["backends"]}


def sockets(host, vip):
    """Local ports of a client's open connections to the VIP, as its kernel knows them."""
    lines = host.run("ss", "-Htn", "state", "established", "dst", vip).stdout.splitlines()
    return {int(line.split()[2].rpartition(":")[2]) for line in lines}


def connections(balancer, client, vip, count):
    """That ask again and again, and {local port: backend whose server answers there}."""
    host = balancer.fabric.hosts[client]
    address = CLIENTS[client][0]
    before = sockets(host, vip)
    began_s = time.time()  # a port may have been used before
    clients = KeepAlive(host, vip, connections=count)
    ports = wait_until(lambda: len(now := sockets(host, vip) - before) == count and now, f"{count} connections")

    def served():
        last = {}
        for name in BACKENDS:
            for request in balancer.fabric.access_log(name):
                if (request.client, request.server) == (address, vip) and request.connected_s > began_s:
                    last[request.client_port] = name
        return last.keys() >= ports and {port: last[port] for port in ports}
    return clients, address, wait_until(served, "every connection was answered")


def expect_whole(clients, served):
    """No connection failed or changed its backend, and clients saw the same servers as the servers' logs say."""
    results = clients.finish()
    assert [c for c in results if c["error"] or len(c["backends"]) != 1] == []
    assert sorted(c["backends"][0] for c in results) == sorted(served.values())


# ---- Looking -----------------------------------------------------------------------------------------------------------


def test_show_flows_and_explain_tell_where_real_connections_are(balancer, all_ready):
    clients, address, served = connections(balancer, "c1", WEB, 24)
    assert set(served.values()) == set(BACKENDS)
    listed = {f["hash"]: f for f in balancer.show("show", "flows", "web", "--list", "1000")["flows"]}
    hashes = set()
    for port, backend in served.items():
        said = balancer.show("explain", "tcp", f"{address}:{port}", f"{WEB}:80")
        assert (said["service"], said["backend"], said["verdict"]) == ("web", backend, "forward"), said
        assert said["address"] == on_fabric()[backend][0]
        assert said["next_hop"]["mac"] == balancer.fabric.hosts[backend].mac()
        assert (said["flow"]["backend"], said["flow"]["state"]) == (backend, "established")
        flow = listed[said["hash"]]
        assert (flow["service"], flow["backend"], flow["state"]) == ("web", backend, "established")
        hashes.add(said["hash"])
    assert len(hashes) == 24, "a flow, an entry"
    counted = in_flow_tables(balancer)
    for name in BACKENDS:
        assert counted[name] >= list(served.values()).count(name)
    # Of one backend only.
    only = balancer.show("show", "flows", "web/b2", "--list", "1000")
    assert {f["backend"] for f in only["flows"]} == {"b2"} and [b["backend"] for b in only["backends"]] == ["b2"]
    expect_whole(clients, served)


def test_explain_says_who_comes_after_the_backend_and_that_one_does(balancer, all_ready):
    """Whom a flow gets when its backend is taken away is whom explain named before."""
    clients, address, served = connections(balancer, "c2", WEB, 24)
    lost = {port for port, backend in served.items() if backend == "b2"}
    said = {port: balancer.show("explain", "tcp", f"{address}:{port}", f"{WEB}:80")["if_gone"] for port in lost}
    assert said and all(not s["reset"] and not s["keeps"] and s["backend"] in ("b1", "b3") for s in said.values())
    balancer.change("backend", "maint", "web/b2")

    def moved():
        now = {port: balancer.show("explain", "tcp", f"{address}:{port}", f"{WEB}:80") for port in lost}
        return all(a.get("flow", {}).get("backend") in ("b1", "b3") for a in now.values()) and now
    for port, now in wait_until(moved, "the flows of web/b2 have gone to others").items():
        assert now["flow"]["backend"] == now["backend"] == said[port]["backend"]
    results = clients.finish()
    # They met a server that knows nothing of them; nobody else noticed.
    assert [c["backends"] for c in results if c["error"]] == [["b2"]] * len(lost)
    assert all("ConnectionReset" in c["error"] for c in results if c["error"])
    assert sorted(c["backends"] for c in results if not c["error"]) == sorted([b] for b in served.values() if b != "b2")

    clients, address, served = connections(balancer, "c2", REST, 8)
    said = [balancer.show("explain", "tcp", f"{address}:{port}", f"{REST}:80")["if_gone"] for port in served]
    assert all(s["keeps"] and not s["reset"] for s in said), "as the service's on_failure says"
    expect_whole(clients, served)


def test_metrics_under_traffic_say_what_show_workers_says(balancer):
    def get(path):
        done = balancer.host.run("curl", "-s", "-w", "\n%{http_code}", f"http://{HTTP}{path}").stdout
        body, _, status = done.rpartition("\n")
        return int(status), body

    status, body = get("/readyz")
    assert status == 200 and json.loads(body) == {"ready": True, "reasons": []}
    results = curl_many(balancer.fabric.hosts["c1"], WEB, 400)
    assert results.failures == []

    def settled():
        """The same before and after the scrape: nothing came between."""
        before, accounting = balancer.show("show", "workers")["dataplane"], balancer.accounting()
        _, text = get("/metrics")
        backends = balancer.backends()
        after = balancer.show("show", "workers")["dataplane"]
        same = [w["received"] for w in before["workers"]] == [w["received"] for w in after["workers"]]
        return same and (before["workers"], accounting, samples(text), backends)
    workers, accounting, found, backends = wait_until(settled, "a scrape between packets")
    assert len(workers) == 1
    for worker in workers:
        labels = f'{{worker="{worker["worker"]}"}}'
        for what in ("received", "forwarded", "answered"):
            assert found[f"sluice_worker_{what}_packets_total{labels}"] == worker[what], what
    assert accounting["forwarded"] == sum(w["forwarded"] for w in workers) > 400 * 4
    per_backend = {key: value for key, value in found.items() if key.startswith("sluice_backend_packets_total{")}
    assert sum(per_backend.values()) == accounting["forwarded"]
    for (of, name), backend in backends.items():
        assert per_backend[f'sluice_backend_packets_total{{service="{of}",backend="{name}"}}'] == backend["packets"]
    assert found["sluice_dataplane_up"] == 1


# ---- A backend is taken out ----------------------------------------------------------------------------------------------


def test_drain_waits_for_the_flows_and_says_what_remains(balancer, all_ready):
    clients, _, served = connections(balancer, "c1", WEB, 30)
    others, _, served_others = connections(balancer, "c2", WEB, 30)
    remain = [*served.values(), *served_others.values()].count("b1")
    assert remain > 0

    def counted():
        return in_flow_tables(balancer)["b1"] == balancer.backend("web", "b1")["flows_active"] == remain
    wait_until(counted, lambda: f"{remain} flows of web/b1: {in_flow_tables(balancer)}", 20.0)
    late = balancer.cli("backend", "drain", "web/b1", "--wait", "--timeout", "1s", check=False)
    flows = f"{remain} flow{'s' if remain > 1 else ''}"
    assert late.returncode == TIME_IS_UP and f"web/b1: {flows} left after 1 s" in late.stderr, late.stderr
    assert "no flows left" not in late.stdout
    late = balancer.cli("--json", "backend", "drain", "web/b1", "--wait", "--timeout", "1s", check=False)
    answer = json.loads(late.stdout.splitlines()[-1])
    assert late.returncode == TIME_IS_UP and answer["ok"] is False and answer["flows"] == remain
    # On a terminal there is a progress line, elsewhere not.
    assert "after 0 s" not in late.stdout + late.stderr
    command = f"{program('controlplane/sluice')} --dir {balancer.directory} backend drain web/b1 --wait --timeout 1s"
    shown = balancer.host.run("script", "--quiet", "--return", "--command", command, "/dev/null", check=False)
    assert shown.returncode == TIME_IS_UP and f"web/b1: {flows} left after 0 s" in shown.stdout, shown
    # It goes on waiting while some are left, and ends when none are.
    waiting = balancer.host.start("drain", [program("controlplane/sluice"), "--dir", balancer.directory, "backend", "drain",
                                            "web/b1", "--wait", "--timeout", "2m"])
    expect_whole(clients, served)
    left = list(served_others.values()).count("b1")
    if left:
        wait_until(lambda: balancer.backend("web", "b1")["flows_active"] == left, "the flows of one client have ended", 20.0)
        assert waiting.running(), waiting.output()
    expect_whole(others, served_others)
    assert waiting.wait(60) == 0, waiting.output()
    assert "web/b1: no flows left" in waiting.output()
    assert balancer.backend("web", "b1")["flows_active"] == 0 and in_flow_tables(balancer).get("b1", 0) == 0
    assert balancer.backend("web", "b1")["admin"] == "drain"


def test_drain_ends_what_is_left_by_a_reset(balancer, all_ready):
    clients, _, served = connections(balancer, "c1", WEB, 40)
    on_b1 = list(served.values()).count("b1")
    assert on_b1 > 0
    wait_until(lambda: in_flow_tables(balancer).get("b1", 0) >= on_b1, lambda: f"{on_b1} flows of web/b1: {in_flow_tables(balancer)}", 20.0)
    done = balancer.cli("backend", "drain", "web/b1", "--reset-after", "1s", "--wait")
    first, last = done.stdout.splitlines()
    assert first.startswith("web/b1: drain, reset in ") and last.startswith("web/b1: "), done.stdout
    wait_until(lambda: balancer.backend("web", "b1")["flows_active"] == 0, "every client of it has been told", 20.0)
    results = clients.finish()
    assert sorted(c["backends"] for c in results if c["error"]) == [["b1"]] * on_b1
    assert all("ConnectionReset" in c["error"] for c in results if c["error"])
    assert [c for c in results if not c["error"] and "b1" in c["backends"]] == []
    assert balancer.backend("web", "b1")["admin"] == "reset"
    late = balancer.cli("backend", "drain", "web/b1", "--timeout", "1s", check=False)
    assert late.returncode == 2 and "--timeout is of --wait" in late.stderr


@pytest.mark.parametrize("until", (("--timeout", "2m"), ("--reset-after", "2m")))
def test_a_drain_that_somebody_ended_is_not_waited_for(balancer, all_ready, until):
    clients, _, served = connections(balancer, "c1", WEB, 30)
    assert "b1" in served.values()
    waiting = balancer.host.start(f"drain{until[0]}", [program("controlplane/sluice"), "--dir", balancer.directory, "backend",
                                                       "drain", "web/b1", "--wait", *until])
    wait_until(lambda: balancer.backend("web", "b1")["admin"] == "drain", "b1 drains")
    assert waiting.running(), waiting.output()
    balancer.change("backend", "ready", "web/b1")
    assert waiting.wait(60) == 1 and "web/b1 is ready again: somebody ended the drain" in waiting.output()
    assert "reset_in_s" not in balancer.backend("web", "b1")
    expect_whole(clients, served)


# ---- A service is taken out ----------------------------------------------------------------------------------------------


def test_a_disabled_service_is_not_served_and_its_flows_go_on_when_it_is_again(balancer, all_ready):
    clients, address, served = connections(balancer, "c1", WEB, 24)
    changes = balancer.change("service", "disable", "web")
    assert changes["acknowledged"] and changes["workers"] == 1
    assert balancer.services()["web"]["state"] == "disabled"

    def packets():
        return sum(b["packets"] for (of, _), b in balancer.backends().items() if of == "web")
    before, passed = packets(), balancer.steering()["passed"] + balancer.accounting()["passed"]
    # New clients get no answer from a backend; the kernel, which has no such address, forwards or refuses.
    new = curl_many(balancer.fabric.hosts["c2"], WEB, 5, max_time_s=1)
    assert new.by_backend == {} and len(new.failures) == 5
    assert packets() == before, "nothing of it is forwarded"
    assert balancer.steering()["passed"] + balancer.accounting()["passed"] > passed
    # explain says the same, the neighbour is served, and the flows rest.
    port = next(iter(served))
    said = balancer.show("explain", "tcp", f"{address}:{port}", f"{WEB}:80")
    assert (said["verdict"], said["reason"]) == ("pass", "no_service")
    assert curl_many(balancer.fabric.hosts["c2"], REST, 20).failures == []
    assert balancer.change("service", "enable", "web")["acknowledged"]
    # TCP sends again what was not answered: each connection goes on, on its backend.
    wait_until(lambda: packets() > before, "packets are forwarded again")
    requests = {name: len(balancer.fabric.access_log(name)) for name in BACKENDS}
    wait_until(lambda: all(len(balancer.fabric.access_log(n)) > requests[n] + 20 for n in set(served.values())),
               "requests are answered again", 20.0)
    expect_whole(clients, served)
    assert curl_many(balancer.fabric.hosts["c2"], WEB, 60).failures == []
