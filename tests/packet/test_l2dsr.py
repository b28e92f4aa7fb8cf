"""L2 DSR: new MAC addresses, and the IP packet byte for byte as it came."""

import pytest
from scapy.compat import raw
from scapy.packet import Raw

from packets import BACKEND4, BACKEND6, ETHERNET_MIN, VIP4, VIP6, inner_of, ip, link, tcp, udp
from replay import DMAC, SMAC, service

families = pytest.mark.parametrize("vip, backend", [(VIP4, BACKEND4), (VIP6, BACKEND6)], ids=["v4", "v6"])


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def assert_relinked(got, frame):
    original = raw(frame)
    assert got[:6] == mac(DMAC)
    assert got[6:12] == mac(SMAC)
    assert got[12:14] == original[12:14]
    ip_bytes = len(inner_of(frame))
    assert got[14 : 14 + ip_bytes] == original[14 : 14 + ip_bytes]


@families
def test_tcp_and_udp(replay, vip, backend):
    config = service(vip=vip, forward="l2dsr", backends=[backend])
    config += service(name="dns", vip=vip, port=53, protocol="udp", forward="l2dsr", backends=[backend])
    frames = [
        link() / ip(vip) / tcp(),
        link() / ip(vip) / tcp(flags="PA") / Raw(bytes(1000)),
        link() / ip(vip) / udp(dport=53) / Raw(b"query"),
    ]
    run = replay(config, frames)
    assert run.summary["forwarded"] == len(frames)
    for got, frame in zip(run.out, frames):
        assert_relinked(got, frame)
        assert len(got) == len(raw(frame))


@families
@pytest.mark.parametrize("hops", [1, 2, 255])
def test_the_hop_count_stays_as_no_router_is_passed(replay, vip, backend, hops):
    frame = link() / ip(vip, **{"hlim" if vip == VIP6 else "ttl": hops}) / tcp()
    run = replay(service(vip=vip, forward="l2dsr", backends=[backend]), [frame])
    assert_relinked(run.out[0], frame)


@families
def test_no_hop_left_at_all(replay, vip, backend):
    frame = link() / ip(vip, **{"hlim" if vip == VIP6 else "ttl": 0}) / tcp()
    run = replay(service(vip=vip, forward="l2dsr", backends=[backend]), [frame])
    assert run.reasons() == {"ttl_expired": 1}


def test_a_wrong_ip_checksum_is_the_backends_to_judge(replay):
    frame = link() / ip(VIP4, chksum=0xDEAD) / tcp(chksum=0xBEEF)
    run = replay(service(forward="l2dsr"), [frame])
    assert_relinked(run.out[0], frame)


def test_a_padded_frame_keeps_its_ip_packet(replay):
    frame = link() / ip(VIP4) / udp(dport=80)
    padded = raw(frame).ljust(ETHERNET_MIN, b"\0")
    run = replay(service(protocol="udp", forward="l2dsr"), [padded])
    assert_relinked(run.out[0], frame)
