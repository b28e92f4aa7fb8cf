"""Real clients reach real servers over every forwarding mode and family; the rest of the NIC is the kernel's; every
packet is accounted for."""

import json
import sys
from pathlib import Path

import pytest

from fabric import BACKENDS, LB4, LB6, VIPS4, VIPS6
from lab import wait_until
from sluice import on_fabric, service
from traffic import Spread, curl_many, curl_once

HERE = Path(__file__).resolve().parent
WEB4, DIRECT4, UDP4, CROSS4 = VIPS4
WEB6, CROSS6 = VIPS6
TCP_CHECK = '{ type = "tcp", port = 80, interval = "200ms", timeout = "150ms", rise = 1, fall = 2 }'
CONFIG = "".join((
    service("web4", WEB4, "ipip", on_fabric({"b1": 100, "b2": 200, "b3": 300})),
    service("direct4", DIRECT4, "l2dsr", on_fabric()),
    service("udp4", UDP4, "ipip", on_fabric(), port=53, protocol="udp", health=TCP_CHECK),
    service("cross4", CROSS4, "ipip", on_fabric(ipv6=True)),   # IPv4 packets in an IPv6 tunnel
    service("web6", WEB6, "ipip", on_fabric(ipv6=True)),
    service("cross6", CROSS6, "ipip", on_fabric()),            # IPv6 packets in an IPv4 tunnel
))


@pytest.mark.parametrize("vip", [WEB4, DIRECT4, CROSS4, WEB6, CROSS6])
@pytest.mark.parametrize("client", ["c1", "c2"])
def test_http_over_every_tunnel(balancer, vip, client):
    results = curl_many(balancer.fabric.hosts[client], vip, 60)
    assert results.total == 60
    assert results.failures == []
    assert set(results.by_backend) == set(BACKENDS)


def test_spread_follows_the_weights(balancer):
    """Three standard deviations per backend and a chi-square; a bias would also show in the second measurement."""
    for _ in range(2):
        results = curl_many(balancer.fabric.hosts["c1"], WEB4, 6000, source=balancer.fabric.fresh_address("c1"))
        assert results.failures == []
        spread = Spread(results.by_backend, {"b1": 100, "b2": 200, "b3": 300})
        if spread.ok:
            break
    assert spread.ok, spread.text()


def test_udp_flows_keep_their_backend(balancer):
    for name in BACKENDS:
        balancer.fabric.hosts[name].start("udp", [sys.executable, HERE / "udp_echo.py", name, UDP4, 53])
    for name in BACKENDS:
        wait_until(lambda: balancer.fabric.hosts[name].run("ss", "-Hlun", "sport = :53").stdout.strip(),
                   f"the UDP server of {name} listens")
    before = balancer.services()["udp4"]
    result = balancer.fabric.hosts["c1"].run(sys.executable, HERE / "udp_ask.py", UDP4, 53, 40, 5, 400)
    answers = json.loads(result.stdout)
    assert len(answers) == 40
    for flow in answers:
        assert len(flow) == 5
        assert len(set(flow)) == 1, "a flow changed its backend"
        assert flow[0] in BACKENDS
    assert len({flow[0] for flow in answers}) == 3
    after = balancer.services()["udp4"]
    assert after["packets"] - before["packets"] == 200
    assert after["flows"] - before["flows"] == 40


def test_the_kernel_answers_on_its_own_addresses(balancer):
    client = balancer.fabric.hosts["c1"]
    redirected = balancer.steering()["redirected"]
    for address in (LB4, LB6):
        assert "3 received" in client.run("ping", "-c", "3", "-i", "0.2", "-W", "2", address).stdout
    # A server of the balancer's own, on a port that is also a service's port.
    balancer.host.start("own-http", [sys.executable, "-m", "http.server", "80", "--bind", LB4])
    balancer.fabric.wait_listening("lb", 80)
    assert curl_once(client, LB4)[0] == 200
    assert balancer.steering()["redirected"] == redirected


def test_ports_without_a_service_are_not_forwarded(balancer):
    client = balancer.fabric.hosts["c1"]
    passed = balancer.steering()["passed"]
    result = client.run("curl", "-s", "--max-time", "2", f"http://{WEB4}:81/", check=False)
    assert result.returncode != 0
    assert balancer.steering()["passed"] > passed


def test_fragments_and_options_are_counted_by_reason(balancer):
    """Steered to the data plane, and dropped there under their names."""
    before = balancer.reasons()
    script = (
        "from scapy.all import IP, UDP, TCP, Raw, IPOption, fragment, send, conf\n"
        "conf.verb = 0\n"
        f"send(fragment(IP(dst='{UDP4}') / UDP(sport=4000, dport=53) / Raw(b'x' * 3000), fragsize=1000))\n"
        f"send([IP(dst='{WEB4}', options=IPOption(b'\\x01\\x01\\x01\\x00')) / TCP(sport=4001, dport=80, flags='S')] * 5)\n")
    balancer.fabric.hosts["c1"].run(sys.executable, "-c", script)

    def difference():
        after = balancer.reasons()
        return {name: after[name] - before[name] for name in ("fragment", "ip_options")}
    # 3,008 bytes in pieces of 1,000: four fragments.
    wait_until(lambda: difference() == {"fragment": 4, "ip_options": 5}, lambda: f"counted: {difference()}")


def test_every_packet_is_accounted_for(balancer):
    """What the steering program handed over is what the workers received, and each packet ended in one way."""
    def settled():
        steering, numbers = balancer.steering(), balancer.accounting()
        return numbers["received"] > 0 and steering["redirected"] == numbers["received"] and numbers
    numbers = wait_until(settled, lambda: f"{balancer.steering()} {balancer.accounting()}")
    assert numbers["received"] == numbers["forwarded"] + numbers["answered"] + numbers["passed"] + numbers["dropped"]
    assert sum(b["packets"] for b in balancer.backends().values()) == numbers["forwarded"]
