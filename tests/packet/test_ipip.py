"""IPIP: the whole frame that leaves, built independently, for all four pairs of inner and outer family."""

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from packets import (
    BACKEND4,
    BACKEND6,
    CLIENT4,
    ETHERNET_MIN,
    VIP4,
    VIP6,
    assert_same,
    inner_of,
    ip,
    ip4,
    link,
    tcp,
    tunnelled,
    udp,
)
from replay import service

PAIRS = [(VIP4, BACKEND4), (VIP6, BACKEND6), (VIP4, BACKEND6), (VIP6, BACKEND4)]
PAIR_NAMES = ["4in4", "6in6", "4in6", "6in4"]
pairs = pytest.mark.parametrize("vip, backend", PAIRS, ids=PAIR_NAMES)


def outer(frame):
    return frame[IPv6] if frame.type == 0x86DD else frame[IP]


def assert_tunnelled(run, frames, backend):
    """Every frame left as it must; what the specification leaves open (id, flow label) is taken from the packet."""
    assert len(run.out) == len(frames), run.summary
    for got, frame in zip(run.out, frames):
        header = outer(Ether(got))
        assert_same(
            got, tunnelled(frame, backend, outer_id=getattr(header, "id", 0), flow_label=getattr(header, "fl", 0))
        )


@pairs
@pytest.mark.parametrize("payload", [b"", b"x", b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 5], ids=len)
def test_tcp(replay, vip, backend, payload):
    frame = link() / ip(vip) / tcp(flags="PA") / Raw(payload)
    run = replay(service(vip=vip, backends=[backend]), [frame])
    assert_tunnelled(run, [frame], backend)


@pairs
@pytest.mark.parametrize("payload", [b"", b"query", bytes(1200)], ids=len)
def test_udp(replay, vip, backend, payload):
    frame = link() / ip(vip) / udp(dport=53) / Raw(payload)
    run = replay(service(vip=vip, port=53, protocol="udp", backends=[backend]), [frame])
    assert_tunnelled(run, [frame], backend)


@pairs
def test_tcp_options_travel(replay, vip, backend):
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    frame = link() / ip(vip) / tcp(options=options)
    assert_tunnelled(replay(service(vip=vip, backends=[backend]), [frame]), [frame], backend)


@pairs
def test_dscp_and_ecn_are_copied_and_the_inner_ones_kept(replay, vip, backend):
    """Uniform model (RFC 2983), normal mode at the ingress (RFC 6040 4.1): every one of the 256 values."""
    field = "tc" if vip == VIP6 else "tos"
    frames = [link() / ip(vip, **{field: value}) / tcp() for value in range(256)]
    run = replay(service(vip=vip, backends=[backend]), frames)
    assert_tunnelled(run, frames, backend)
    for value, got in enumerate(run.out):
        header = outer(Ether(got))
        assert (header.tc if backend == BACKEND6 else header.tos) == value


@pairs
def test_the_inner_packet_loses_one_hop(replay, vip, backend):
    field = "hlim" if vip == VIP6 else "ttl"
    hops = [2, 3, 64, 128, 254, 255]
    frames = [link() / ip(vip, **{field: n}) / tcp() for n in hops]
    run = replay(service(vip=vip, backends=[backend]), frames)
    assert_tunnelled(run, frames, backend)
    for n, got in zip(hops, run.out):
        header = outer(Ether(got))
        assert (header.hlim if backend == BACKEND6 else header.ttl) == 64
        inner = raw(header)[len(header) - len(header.payload) :]
        assert inner[7 if vip == VIP6 else 8] == n - 1


@pairs
@pytest.mark.parametrize("hops", [0, 1])
def test_no_hop_left(replay, vip, backend, hops):
    field = "hlim" if vip == VIP6 else "ttl"
    run = replay(service(vip=vip, backends=[backend]), [link() / ip(vip, **{field: hops}) / tcp()])
    assert run.out == []
    assert run.reasons() == {"ttl_expired": 1}


def test_the_inner_checksum_is_right_for_every_header(replay):
    """The incremental update (RFC 1624) at its edges: headers whose checksum is near 0x0000 and 0xffff."""
    frames = [link() / ip4(id=n, ttl=ttl) / tcp() for n in range(0, 65536, 97) for ttl in (2, 64, 255)]
    run = replay(service(), frames)
    assert len(run.out) == len(frames)
    for got, frame in zip(run.out, frames):
        assert_same(got, tunnelled(frame, BACKEND4))


@pytest.mark.parametrize("flags", ["DF", 0], ids=["DF", "noDF"])
def test_outer_df_is_the_inner_df(replay, flags):
    frames = [link() / ip4(flags=flags) / tcp(sport=sport) for sport in range(1000, 1064)]
    run = replay(service(), frames)
    assert_tunnelled(run, frames, BACKEND4)
    ids = [Ether(got)[IP].id for got in run.out]
    if flags == "DF":
        assert set(ids) == {0}  # RFC 6864 4.1: atomic datagrams need none
    else:
        assert len(set(ids)) == len(ids), "the identification of fragments must tell packets apart"


def test_outer_df_is_set_for_ipv6_in_ipv4(replay):
    run = replay(service(vip=VIP6, backends=[BACKEND4]), [link() / ip(VIP6) / tcp()])
    assert run.only()[IP].flags == "DF"
    assert run.only()[IP].id == 0


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["4in6", "6in6"])
def test_the_flow_label_is_the_flows(replay, vip):
    """RFC 6438: not zero, one for all packets of a flow, spread over flows."""
    ports = list(range(2000, 2128))
    frames = [link() / ip(vip) / tcp(sport=port, flags=flags) for flags in ("S", "A", "PA") for port in ports]
    run = replay(service(vip=vip, backends=[BACKEND6]), frames)
    assert_tunnelled(run, frames, BACKEND6)
    labels = {}
    for got, frame in zip(run.out, frames):
        labels.setdefault(frame["TCP"].sport, set()).add(Ether(got)[IPv6].fl)
    assert all(len(seen) == 1 for seen in labels.values())
    distinct = set().union(*labels.values())
    assert 0 not in distinct
    assert len(distinct) > len(ports) * 0.9


@pytest.mark.parametrize("backend", [BACKEND4, BACKEND6], ids=["in4", "in6"])
def test_ethernet_padding_is_not_carried(replay, backend):
    frame = link() / ip4() / udp(dport=53) / Raw(b"q")
    padded = raw(frame).ljust(ETHERNET_MIN, b"\xee")
    assert len(padded) > len(frame)
    run = replay(service(port=53, protocol="udp", backends=[backend]), [padded])
    assert_tunnelled(run, [frame], backend)
    assert len(run.out[0]) == 14 + (20 if backend == BACKEND4 else 40) + len(inner_of(frame))


def test_the_outer_checksum_is_right_for_many_addresses(replay):
    """Sums that carry, that become 0xffff, and all that lies between."""
    addresses = ["10.0.0.1", "223.255.255.254", "1.0.0.1", "100.127.255.255", "192.0.2.255", "128.0.0.128"]
    for address in addresses:
        frames = [link() / ip4(flags=0, tos=tos) / tcp() / Raw(bytes(n)) for tos in (0, 255) for n in range(0, 64, 7)]
        assert_tunnelled(replay(service(backends=[address]), frames), frames, address)


def test_what_is_not_ours_to_change_stays(replay):
    """The transport checksum, even a wrong one, and the payload: the backend shall see what the client sent."""
    frame = link() / ip4() / tcp(chksum=0xDEAD, flags="FPU", urgptr=7, window=0) / Raw(b"\x00\xff" * 100)
    assert_tunnelled(replay(service(), [frame]), [frame], BACKEND4)


def test_a_source_inside_the_tunnel_network_is_nothing_special(replay):
    frame = link() / ip4(src=BACKEND4) / tcp()
    assert_tunnelled(replay(service(), [frame]), [frame], BACKEND4)
    assert inner_of(frame).src != CLIENT4
