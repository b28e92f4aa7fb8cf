"""A packet too big for the link to its backend: told to the sender, or dropped and counted; never cut, never sent."""

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from packets import (
    BACKEND4,
    BACKEND6,
    CLIENT4,
    VIP4,
    VIP6,
    assert_same,
    filled,
    ip,
    ip4,
    ip6,
    link,
    tcp,
    too_big,
    udp,
)
from replay import MTU, service

CASES = [
    ("4in4", VIP4, BACKEND4, "ipip", 20),
    ("6in4", VIP6, BACKEND4, "ipip", 20),
    ("4in6", VIP4, BACKEND6, "ipip", 40),
    ("6in6", VIP6, BACKEND6, "ipip", 40),
    ("l2dsr4", VIP4, BACKEND4, "l2dsr", 0),
    ("l2dsr6", VIP6, BACKEND6, "l2dsr", 0),
]
cases = pytest.mark.parametrize("vip, backend, forward, overhead", [c[1:] for c in CASES], ids=[c[0] for c in CASES])


@cases
@pytest.mark.parametrize("mtu", [1400, MTU, 9000])
def test_the_largest_that_fits_and_one_byte_more(replay, vip, backend, forward, overhead, mtu):
    config = service(vip=vip, backends=[backend], forward=forward)
    fits = mtu - overhead
    run = replay(config, [filled(ip(vip), tcp(flags="A"), fits)], mtu=mtu)
    assert run.summary["forwarded"] == 1
    assert len(run.out[0]) == 14 + mtu

    frame = filled(ip(vip), tcp(flags="A"), fits + 1)
    run = replay(config, [frame], mtu=mtu)
    assert run.summary["answered"] == 1
    assert_same(run.out[0], too_big(frame, fits))


@cases
def test_udp_is_answered_like_tcp(replay, vip, backend, forward, overhead):
    config = service(vip=vip, protocol="udp", backends=[backend], forward=forward)
    frame = filled(ip(vip), udp(), MTU + 1)
    run = replay(config, [frame])
    assert_same(run.out[0], too_big(frame, MTU - overhead))


def test_the_quote_is_as_much_as_the_rfcs_allow(replay):
    run = replay(service(), [filled(ip4(), tcp(flags="A"), 1500)])
    assert len(run.out[0]) == 14 + 576  # RFC 1812 4.3.2.3
    run = replay(service(vip=VIP6, backends=[BACKEND6]), [filled(ip6(), tcp(flags="A"), 1500)])
    assert len(run.out[0]) == 14 + 1280  # RFC 4443 3.2


def test_no_ipv6_sender_is_asked_to_go_below_1280(replay):
    """RFC 8201 4: it would not. What it may send and the link does not carry with a tunnel header is lost, by name."""
    small, large = (filled(ip6(), tcp(flags="A"), size) for size in (1280, 1281))
    run = replay(service(vip=VIP6, backends=[BACKEND4]), [small, large], mtu=1280)
    assert run.summary["dropped"] == {"mtu_exceeded": 1}
    assert_same(run.out[0], too_big(large, 1280))


def test_the_quote_shows_the_hop_count_that_came(replay):
    """The client matches the quote with what it sent; nothing was forwarded, so no hop was taken."""
    run = replay(service(), [filled(ip4(ttl=9), tcp(flags="A"), 1500)])
    assert IP(bytes(Ether(run.out[0])[IP].payload)[8:]).ttl == 9


@pytest.mark.parametrize("backend, fits", [(BACKEND4, 1480), (BACKEND6, 1460)], ids=["in4", "in6"])
def test_ipv4_without_df_is_dropped(replay, backend, fits):
    config = service(backends=[backend])
    assert replay(config, [filled(ip4(flags=0), tcp(flags="A"), fits)]).summary["forwarded"] == 1
    run = replay(config, [filled(ip4(flags=0), tcp(flags="A"), fits + 1)])
    assert run.out == []
    assert run.summary["dropped"] == {"mtu_exceeded": 1}


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255"])
def test_a_source_that_is_no_host_gets_no_answer(replay, source):
    run = replay(service(), [filled(ip4(src=source), tcp(flags="A"), 1500)])
    assert run.summary["dropped"] == {"mtu_exceeded": 1}


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1"])
def test_an_ipv6_source_that_is_no_host_gets_no_answer(replay, source):
    run = replay(service(vip=VIP6, backends=[BACKEND6]), [filled(ip6(src=source), tcp(flags="A"), 1500)])
    assert run.summary["dropped"] == {"mtu_exceeded": 1}


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
def test_a_frame_to_many_stations_gets_no_answer(replay, mac):
    """RFC 1122 3.2.2, RFC 1812 4.3.2.7: no ICMP error for a link-layer broadcast."""
    frame = filled(ip4(), tcp(flags="A"), 1500)
    frame[Ether].dst = mac
    run = replay(service(), [frame])
    assert run.summary["dropped"] == {"mtu_exceeded": 1}


def test_answers_of_one_second_are_limited(replay):
    """RFC 1812 4.3.2.8, RFC 4443 2.4 f; src/size_limits.h has the figure."""
    frame = bytes(filled(ip4(), tcp(flags="A"), 1500))
    run = replay(service(), [frame] * 1200)
    assert run.summary["answered"] == 1000
    assert run.summary["dropped"] == {"icmp_rate_limited": 200}


def test_an_answer_does_not_disturb_its_neighbours(replay):
    """In one batch: small ones around a big one leave as if it were not there."""
    small = [link() / ip4() / tcp(sport=port) / Raw(b"data") for port in (1, 2)]
    big = filled(ip4(), tcp(sport=3, flags="A"), 1500)
    alone = replay(service(), small).out
    run = replay(service(), [small[0], big, small[1]])
    assert [run.out[0], run.out[2]] == alone
    assert_same(run.out[1], too_big(big, 1480))
    assert Ether(run.out[1])[IP].dst == CLIENT4
