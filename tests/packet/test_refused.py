"""What is not forwarded: each kind of packet has its one reason, as src/reason.h says, and nothing leaves."""

import pytest
from scapy.compat import raw
from scapy.contrib.lldp import LLDPDU
from scapy.layers.inet import ICMP, IP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Dot3, Ether, GRE
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from packets import BACKEND4, BACKEND6, VIP4, VIP6, ip, ip4, ip6, link, tcp, udp
from replay import BALANCER_MAC, CLIENT_MAC, service

CONFIG = "".join(
    service(name=f"{protocol}{'6' if vip == VIP6 else '4'}", vip=vip, protocol=protocol, backends=[backend])
    for vip, backend in ((VIP4, BACKEND4), (VIP6, BACKEND6))
    for protocol in ("tcp", "udp")
)


def refused(replay, frames):
    run = replay(CONFIG, frames)
    assert run.out == [], run.summary
    return run.summary


def assert_dropped(replay, frames, reason):
    frames = list(frames)
    assert refused(replay, frames)["dropped"] == {reason: len(frames)}


def assert_passed(replay, frames, reason):
    frames = list(frames)
    assert refused(replay, frames)["passed"] == {reason: len(frames)}


def patched(frame, changes):
    """The frame's bytes with some of them overwritten: {offset: value}."""
    data = bytearray(raw(frame))
    for offset, value in changes.items():
        data[offset] = value
    return bytes(data)


# ---- not for the load balancer: passed ------------------------------------------------------------------------------


def test_not_ip(replay):
    frames = [
        link() / ARP(op="who-has", psrc="198.51.100.7", pdst=VIP4),
        link() / LLDPDU(),
        Ether(src=CLIENT_MAC, dst=BALANCER_MAC, type=0x8847) / Raw(raw(ip4() / tcp())),
        Dot3(src=CLIENT_MAC, dst=BALANCER_MAC) / Raw(bytes(46)),
    ]
    assert_passed(replay, frames, "not_ip")


@pytest.mark.parametrize("tag", [Dot1Q(vlan=7), Dot1AD(vlan=7), Dot1AD(vlan=7) / Dot1Q(vlan=8)], ids=["Q", "AD", "QinQ"])
def test_vlan(replay, tag):
    assert_passed(replay, [link() / tag / ip4() / tcp(), link() / tag / ip6() / tcp()], "vlan_tagged")


def test_other_protocols_to_a_vip(replay):
    frames = [
        link() / ip4() / ICMP(),
        link() / ip6() / ICMPv6EchoRequest(),
        link() / ip6() / ICMPv6ND_NS(tgt=VIP6),
        link() / ip4() / SCTP(sport=1, dport=80),
        link() / ip4() / GRE() / IP(dst=VIP4) / tcp(),
        link() / ip4() / IP(dst=VIP4) / tcp(),
        link() / ip6() / IPv6(dst=VIP6) / tcp(),
        link() / ip6(nh=59),  # no next header
    ]
    assert_passed(replay, frames, "not_tcp_udp")


def test_no_service(replay):
    frames = [
        link() / ip4() / tcp(dport=81),
        link() / ip6() / udp(dport=79),
        link() / ip4("203.0.113.11") / tcp(),
        link() / ip6("2001:db8:10::11") / tcp(),
        link() / ip4(dst="198.51.100.7", src=VIP4) / tcp(sport=80, dport=40000),  # the way back
    ]
    assert_passed(replay, frames, "no_service")


def test_the_protocol_is_part_of_the_service(replay):
    run = replay(service(protocol="tcp"), [link() / ip4() / udp()])
    assert run.summary["passed"] == {"no_service": 1}


# ---- for the load balancer, and lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])
@pytest.mark.parametrize("transport", [tcp(), tcp(options=[("MSS", 1460)]), udp()], ids=["tcp", "tcp-options", "udp"])
@pytest.mark.parametrize("payload", [b"", b"payload"], ids=["empty", "payload"])
def test_truncated_at_every_byte(replay, vip, transport, payload):
    whole = raw(link() / ip(vip) / transport / Raw(payload))
    assert_dropped(replay, [whole[:n] for n in range(len(whole))], "truncated")
    assert replay(CONFIG, [whole]).summary["forwarded"] == 1


def test_longer_than_the_frame(replay):
    assert_dropped(replay, [link() / ip4(len=n) / tcp() for n in (41, 100, 1500, 65535)], "truncated")
    assert_dropped(replay, [link() / ip6(plen=n) / tcp() for n in (21, 100, 1500, 65535)], "truncated")


def test_every_wrong_version(replay):
    for network, right in ((ip4(), 4), (ip6(), 6)):
        frame = link() / network / tcp()
        low = raw(frame)[14] & 0x0F
        frames = [patched(frame, {14: version << 4 | low}) for version in range(16) if version != right]
        assert_dropped(replay, frames, "bad_ip_version")


def test_a_version_that_contradicts_the_ethertype(replay):
    frames = [
        Ether(src=CLIENT_MAC, dst=BALANCER_MAC, type=0x0800) / Raw(raw(ip6() / tcp())),
        Ether(src=CLIENT_MAC, dst=BALANCER_MAC, type=0x86DD) / Raw(raw(ip4() / tcp() / Raw(bytes(40)))),
    ]
    assert_dropped(replay, frames, "bad_ip_version")


def test_header_length_below_five_words(replay):
    frame = link() / ip4() / tcp() / Raw(bytes(60))
    assert_dropped(replay, [patched(frame, {14: 0x40 | ihl}) for ihl in range(5)], "bad_ip_header")


def test_length_below_its_own_header(replay):
    assert_dropped(replay, [link() / ip4(len=n) / tcp() for n in range(20)], "bad_ip_length")
    frame = link() / ip4() / tcp()  # 40 bytes, which a header of 11 words or more does not fit
    assert_dropped(replay, [patched(frame, {14: 0x40 | ihl}) for ihl in range(11, 16)], "bad_ip_length")


def test_no_room_for_the_transport_header(replay):
    padding = Raw(bytes(60))
    assert_dropped(replay, [link() / ip4(len=20 + n) / tcp() / padding for n in range(20)], "bad_l4_header")
    assert_dropped(replay, [link() / ip6(plen=n) / tcp() / padding for n in range(20)], "bad_l4_header")
    assert_dropped(replay, [link() / ip4(len=20 + n) / udp() / padding for n in range(8)], "bad_l4_header")
    assert_dropped(replay, [link() / ip6(plen=n) / udp() / padding for n in range(8)], "bad_l4_header")


def test_tcp_header_length(replay):
    for network in (ip4(), ip6()):
        frames = [link() / network / tcp(dataofs=words) for words in range(5)]  # below 20 bytes
        frames += [link() / network / tcp(dataofs=words) for words in range(6, 16)]  # beyond the packet
        frames += [link() / network / tcp(dataofs=15) / Raw(bytes(39))]
        assert_dropped(replay, frames, "bad_l4_header")
    assert replay(CONFIG, [link() / ip4() / tcp(dataofs=15) / Raw(bytes(40))]).summary["forwarded"] == 1


def test_udp_length(replay):
    for network in (ip4(), ip6()):
        frames = [link() / network / udp(len=n) / Raw(bytes(4)) for n in (0, 1, 7, 13, 65535)]
        assert_dropped(replay, frames, "bad_l4_header")
    run = replay(CONFIG, [link() / ip4() / udp(len=8) / Raw(bytes(4))])
    assert run.summary["forwarded"] == 1  # shorter than IP's is RFC 768's business with the receiver


@pytest.mark.parametrize("vip, field", [(VIP4, "ttl"), (VIP6, "hlim")], ids=["v4", "v6"])
def test_no_hop_left(replay, vip, field):
    assert_dropped(replay, [link() / ip(vip, **{field: n}) / tcp() for n in (0, 1)], "ttl_expired")


def test_ipv4_options(replay):
    frames = [
        link() / ip4(options=[IPOption_RR(routers=["0.0.0.0"] * words)]) / tcp() for words in range(1, 9)
    ]
    frames += [link() / ip4(options=[IPOption_NOP()] * 4) / udp()]
    assert_dropped(replay, frames, "ip_options")


def test_ipv6_extension_headers(replay):
    headers = [IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(addresses=["2001:db8::1"]), IPv6ExtHdrDestOpt(), AH(nh=6)]
    frames = [link() / ip6() / header / tcp() for header in headers]
    assert_dropped(replay, frames, "ip_options")


def test_fragments(replay):
    frames = [
        link() / ip4(flags="MF") / tcp(),  # first
        link() / ip4(flags="MF", frag=10, proto=6) / Raw(bytes(80)),  # middle
        link() / ip4(flags=0, frag=20, proto=6) / Raw(bytes(80)),  # last
        link() / ip4(flags=0, frag=8191, proto=17) / Raw(bytes(8)),
        link() / ip6() / IPv6ExtHdrFragment(m=1, id=1) / tcp(),
        link() / ip6() / IPv6ExtHdrFragment(offset=10, id=1, nh=17) / Raw(bytes(80)),
        link() / ip6() / IPv6ExtHdrFragment(m=0, offset=0, id=1) / tcp(),  # atomic, RFC 6946
    ]
    assert_dropped(replay, frames, "fragment")


def test_fragments_and_options_to_others_are_not_ours(replay):
    frames = [
        link() / ip4("203.0.113.11", flags="MF") / tcp(),
        link() / ip4("203.0.113.11", options=[IPOption_NOP()] * 4) / tcp(),
        link() / ip6("ff02::16") / IPv6ExtHdrHopByHop() / ICMPv6EchoRequest(),  # as MLD comes
        link() / ip6("2001:db8:10::11") / IPv6ExtHdrFragment(m=1, id=1) / tcp(),
    ]
    assert_passed(replay, frames, "no_service")


def test_a_service_whose_backends_have_no_weight(replay):
    run = replay(service(backends=[(BACKEND4, 0)]), [link() / ip4() / tcp()])
    assert run.summary["dropped"] == {"no_backend": 1}


# ---- all of it at once ----------------------------------------------------------------------------------------------


def test_a_mixed_capture_adds_up(replay):
    """One of everything among good packets: each has its own reason, whatever stands around it in the batch."""
    good = link() / ip4() / tcp()
    bad = {
        "not_ip": link() / ARP(),
        "vlan_tagged": link() / Dot1Q(vlan=1) / ip4() / tcp(),
        "no_service": link() / ip4() / tcp(dport=9),
        "not_tcp_udp": link() / ip4() / ICMP(),
        "truncated": raw(good)[:40],
        "bad_ip_version": patched(good, {14: 0x55}),
        "bad_ip_header": patched(good, {14: 0x41}),
        "bad_ip_length": link() / ip4(len=10) / tcp(),
        "bad_l4_header": link() / ip4() / tcp(dataofs=1),
        "ttl_expired": link() / ip4(ttl=1) / tcp(),
        "ip_options": link() / ip4(options=[IPOption_NOP()] * 4) / tcp(),
        "fragment": link() / ip4(flags="MF") / tcp(),
        "mtu_exceeded": link() / ip4(flags=0) / tcp() / Raw(bytes(1441)),
    }
    frames = []
    for n, frame in enumerate(bad.values(), start=1):
        frames += [frame] * n + [good]
    run = replay(CONFIG, frames)
    assert run.reasons() == {reason: n for n, reason in enumerate(bad, start=1)}
    assert run.summary["forwarded"] == len(bad)
    assert len(set(run.out)) == 1
    assert set(run.summary["passed"]) == {"not_ip", "vlan_tagged", "no_service", "not_tcp_udp"}
