"""SIGKILL at any instant: traffic goes on, and who comes back takes over."""

import time

from fabric import BACKENDS, VIPS4
from lab import wait_until
from sluice import on_fabric, service
from traffic import KeepAlive, Wrk, curl_many, curl_once

WEB = VIPS4[0]
CONFIG = service("web", WEB, "ipip", on_fabric())


def expect_no_flow_moved(connections):
    assert [c for c in connections if c["error"]] == []
    assert [c for c in connections if len(c["backends"]) != 1] == []


def test_sluiced_killed_under_traffic(balancer):
    """No request fails; weights, admin states and health are the same afterwards, and checks go on."""
    balancer.change("backend", "weight", "web/b1", "250")
    balancer.change("backend", "drain", "web/b2")
    checksum = balancer.services()["web"]["table_checksum"]
    runs = [Wrk(balancer.fabric.hosts["c1"], WEB, 6, connections=24, new_connections=False),
            Wrk(balancer.fabric.hosts["c2"], WEB, 6, connections=12, new_connections=True)]
    for _ in range(2):
        time.sleep(1)
        balancer.sluiced.kill()
        time.sleep(0.5)
        balancer.start_sluiced()
        balancer.wait_answering()
        backends = {name: b for (_, name), b in balancer.backends().items()}
        assert backends["b1"]["weight"] == 250
        assert backends["b2"]["admin"] == "drain"
        assert {b["health"] for b in backends.values()} == {"up"}
        assert balancer.services()["web"]["table_checksum"] == checksum
    for run in runs:
        run.finish()
        assert run.failed == 0
        assert run.requests > 1000
    balancer.fabric.nginx["b3"].kill()
    wait_until(lambda: balancer.backend("web", "b3")["health"] == "down", "the new sluiced sees b3 go down")
    balancer.fabric.start_nginx("b3")
    balancer.change("backend", "ready", "web/b2")
    balancer.wait_ready()


def test_data_plane_killed_under_traffic(balancer):
    """Established flows outlive it, those away from their table's backend included: nobody is reset or moved."""
    for name in BACKENDS:
        balancer.change("backend", "weight", f"web/{name}", "100")
    kept = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=90)
    time.sleep(1)
    # Most flows become exceptions: their backend is no longer what the lookup table says.
    balancer.change("backend", "weight", "web/b1", "1")
    balancer.change("backend", "drain", "web/b2")
    time.sleep(0.5)
    balancer.dataplane.kill()
    time.sleep(0.5)
    assert balancer.steering()["dropped_no_socket"] > 0, "the kernel would have answered for the VIP"
    balancer.start_dataplane()
    wait_until(balancer.workers_current, "the new data plane has the tables")
    time.sleep(2)
    connections = kept.finish()
    expect_no_flow_moved(connections)
    assert len({c["backends"][0] for c in connections}) == 3
    balancer.change("backend", "ready", "web/b2")
    balancer.change("backend", "weight", "web/b1", "100")
    results = curl_many(balancer.fabric.hosts["c2"], WEB, 300)
    assert results.failures == []


def test_without_a_data_plane_the_kernel_keeps_the_nic(balancer):
    balancer.dataplane.kill()
    client = balancer.fabric.hosts["c1"]
    assert "2 received" in client.run("ping", "-c", "2", "-i", "0.2", "-W", "2", "10.0.1.10").stdout
    # Dropped, not refused: curl gets no RST, it times out (exit status 28).
    result = client.run("curl", "-s", "--connect-timeout", "1", f"http://{WEB}/", check=False)
    assert result.returncode == 28
    assert balancer.dataplane_report()["dataplane"]["running"] is False
    balancer.start_dataplane()
    wait_until(balancer.workers_current, "the new data plane has the tables")
    assert curl_once(client, WEB)[0] == 200


def test_either_may_start_first(idle_balancer):
    balancer = idle_balancer
    balancer.start_sluiced()
    balancer.wait_answering()
    assert balancer.dataplane_report()["dataplane"]["running"] is False
    balancer.start_dataplane()
    balancer.wait_ready()
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200
    balancer.sluiced.stop()
    balancer.dataplane.stop()
    # An orderly end takes the program off the NIC, but not the tables away: the data plane alone forwards again.
    balancer.start_dataplane()
    wait_until(lambda: "forwarding" in balancer.dataplane.output().splitlines()[-1], "it found the tables")
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200
