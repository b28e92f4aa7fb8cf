"""SIGKILL at any instant: traffic goes on, and who comes back takes over."""

import json
import random
import socket
import threading
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


class Updates(threading.Thread):
    """Weights of one backend, one after the other, each on the heels of the answer to the last; sluiced may be gone."""

    def __init__(self, balancer, backend):
        super().__init__()
        self.path, self.backend = balancer.directory / "control.sock", backend
        self.done = self.asked = 100  # the last that was answered; the last that was sent
        self.answered = 0
        self.refused = []
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.connect(str(self.path))
                    self.stream(connection, connection.makefile("rb"))
            except OSError:
                time.sleep(0.005)

    def stream(self, connection, lines):
        while not self.over.is_set():
            self.asked += 1
            connection.sendall(json.dumps({"v": 1, "cmd": "backend.weight", "service": "web", "backend": self.backend,
                                           "weight": self.asked}).encode() + b"\n")
            line = lines.readline()
            if not line:
                return
            answer = json.loads(line)
            if not answer["ok"]:
                self.refused.append(answer)
                return
            self.done = self.asked
            self.answered += 1


class Requests(threading.Thread):
    """A connection a request, without a pause."""

    def __init__(self, host):
        super().__init__()
        self.host = host
        self.total = 0
        self.failures = []
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            results = curl_many(self.host, WEB, 200, parallel=8)
            self.total += results.total
            self.failures += results.failures


def test_twenty_kills_of_sluiced_under_updates_and_traffic(fresh_balancer):
    """No packet is lost by it: each one that came in was forwarded, no request failed, no flow moved; what was answered
    as done is there after each kill, and the data plane follows each successor."""
    balancer = fresh_balancer
    # Checks with patience: on a busy machine a late answer is no failure, and none is wanted here.
    balancer.write_config(CONFIG.replace('"200ms", timeout = "150ms"', '"2s", timeout = "2s"'))
    balancer.change("reload")
    pid = balancer.dataplane.pid
    kept = KeepAlive(balancer.fabric.hosts["c1"], WEB, connections=60, pause_ms=40)
    requests = Requests(balancer.fabric.hosts["c2"])
    updates = [Updates(balancer, name) for name in ("b1", "b2")]
    threads = [requests, *updates]
    for thread in threads:
        thread.start()
    moments = random.Random(4)
    generation = 0
    try:
        for kill in range(20):
            time.sleep(moments.uniform(0.02, 0.4))
            balancer.sluiced.kill()
            least = [u.done for u in updates]
            if kill % 5 == 0:
                time.sleep(0.3)
            balancer.start_sluiced()
            balancer.wait_answering()
            now = [balancer.backend("web", u.backend)["weight"] for u in updates]
            most = [u.asked for u in updates]
            assert all(low <= weight <= high for low, weight, high in zip(least, now, most)), (kill, least, now, most)
            number = balancer.dataplane_report()["control"]["generation"]
            assert number >= generation, "generations never go back"
            generation = number
            wait_until(lambda n=number: balancer.dataplane_report()["dataplane"]["workers"][0]["acknowledged"] >= n,
                       "the worker follows the new sluiced")
    finally:
        for thread in threads:
            thread.over.set()
        for thread in threads:
            thread.join()
    connections = kept.finish()
    assert len(connections) == 60 and all(c["requests"] > 20 for c in connections)
    expect_no_flow_moved(connections)
    assert requests.failures == [] and requests.total >= 400
    assert all(u.answered > 100 and not u.refused for u in updates), [(u.answered, u.refused[:1]) for u in updates]
    assert {name: balancer.backend("web", name)["weight"] for name in ("b1", "b2")} == {u.backend: u.done for u in updates}
    events = balancer.sluiced.output()
    assert not any(word in events for word in ("damaged", "backend_down", " is down")), events[-2000:]

    def settled():
        steering, numbers = balancer.steering(), balancer.accounting()
        return steering["redirected"] == numbers["received"] and (steering, numbers)
    steering, numbers = wait_until(settled, lambda: f"{balancer.steering()} {balancer.accounting()}")
    assert steering["dropped_no_socket"] == 0
    assert numbers["received"] == numbers["forwarded"] + numbers["answered"] + numbers["passed"] + numbers["dropped"]
    assert numbers["forwarded"] == numbers["received"], balancer.reasons()
    assert sum(b["packets"] for b in balancer.backends().values()) == numbers["forwarded"]
    dataplane = balancer.dataplane_report()["dataplane"]
    assert (dataplane["pid"], dataplane["starts"]) == (pid, 1)
    assert [port["missed"] for port in dataplane["ports"]] == [0]


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
