"""Packets that do not fit with a tunnel header: the client hears of it, and path MTU discovery does the rest. The
fabric of this module carries 1500 bytes, so a client's full-sized packets do not fit."""

import hashlib
import sys

import pytest

from fabric import VIPS4, VIPS6
from sluice import on_fabric, service
from traffic import url

WEB4, DIRECT4 = VIPS4[:2]
WEB6 = VIPS6[0]
FABRIC = {"fabric_mtu": 1500}
CONFIG = "".join((service("web4", WEB4, "ipip", on_fabric()), service("direct4", DIRECT4, "l2dsr", on_fabric()),
                  service("web6", WEB6, "ipip", on_fabric(ipv6=True))))
UPLOAD_BYTES = 1 << 20


def upload(balancer, vip):
    """A POST, whose segments go through the balancer; nginx answers with the length it read."""
    source = balancer.fabric.folder / "upload.bin"
    source.write_bytes(bytes(UPLOAD_BYTES))
    result = balancer.fabric.hosts["c1"].run("curl", "-s", "--max-time", "20", "-H", "Expect:", "--data-binary",
                                             f"@{source}", url(vip, "/upload"), check=False)
    return result.stdout.split()[-1:] == [str(UPLOAD_BYTES)]


@pytest.mark.parametrize("vip", [WEB4, WEB6])
def test_path_mtu_discovery_through_the_tunnel(balancer, vip):
    answered = balancer.accounting()["answered"]
    assert upload(balancer, vip)
    assert balancer.accounting()["answered"] > answered
    known = balancer.fabric.hosts["c1"].run("ip", "route", "get", vip).stdout
    assert f"mtu {1500 - 20 if vip == WEB4 else 1500 - 40}" in known


def test_l2dsr_needs_no_smaller_packets(balancer):
    answered = balancer.accounting()["answered"]
    assert upload(balancer, DIRECT4)
    assert balancer.accounting()["answered"] == answered


def test_downloads_do_not_pass_the_balancer(balancer):
    """Direct server return: big answers go from the backend to the client, whatever the tunnel costs."""
    source = balancer.fabric.make_file("file.bin", 4 << 20)
    result = balancer.fabric.hosts["c1"].run("curl", "-s", "--max-time", "20", "-o", balancer.fabric.folder / "got.bin",
                                             url(WEB4, "/file.bin"))
    assert result.returncode == 0
    got = (balancer.fabric.folder / "got.bin").read_bytes()
    assert hashlib.sha256(got).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_too_big_without_dont_fragment_is_dropped_and_counted(balancer):
    """Nobody may fragment for a sender that allows it (the balancer does not), but it must not vanish uncounted."""
    before = balancer.accounting()
    script = ("from scapy.all import IP, TCP, Raw, send, conf\nconf.verb = 0\n"
              f"send([IP(dst='{WEB4}', flags=0) / TCP(sport=4000, dport=80, flags='A') / Raw(b'x' * 1460)] * 3)\n")
    balancer.fabric.hosts["c1"].run(sys.executable, "-c", script)
    after = balancer.accounting()
    assert after["received"] - before["received"] == 3
    assert after["balanced"]
    assert after["forwarded"] == before["forwarded"]
