"""on_failure = "reset": the client of a flow whose backend is gone gets the reset that a closed socket would send
(RFC 9293 3.10.7.1), once, and nobody else gets any."""

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from packets import BACKEND4, BACKEND6, VIP4, VIP6, assert_same, filled, inner_of, ip, ip4, link, tunnelled, udp
from replay import BALANCER_MAC, CLIENT_MAC, service

families = pytest.mark.parametrize(
    "vip, backends", [(VIP4, [BACKEND4, "10.0.1.12"]), (VIP6, [BACKEND6, "fd00:1::12"])], ids=["v4", "v6"]
)


def checked(vip=VIP4, backends=(BACKEND4,), on_failure="reset", **more):
    """A service whose backends are checked, so that they can fail."""
    return service(vip=vip, backends=backends, on_failure=on_failure, **more).replace('"none"', '"tcp", port = 80')


def tcp(flags, seq=1000, ack=0, **fields):
    return TCP(sport=40000, dport=80, flags=flags, seq=seq, ack=ack, **fields)


def connection(vip):
    """SYN and its acknowledgement: a confirmed flow."""
    return [link() / ip(vip) / tcp("S"), link() / ip(vip) / tcp("A", seq=1001, ack=9001)]


def reset(frame, flags, seq, ack):
    """What must come back for `frame`."""
    offender = inner_of(frame)
    answer = TCP(sport=80, dport=40000, flags=flags, seq=seq, ack=ack, window=0)
    ether = Ether(src=BALANCER_MAC, dst=CLIENT_MAC)
    if offender.version == 6:
        return ether / IPv6(src=offender.dst, dst=offender.src, nh=6, hlim=64) / answer
    return ether / IP(src=offender.dst, dst=offender.src, ttl=64, flags="DF", id=0) / answer


def failing(replay, config, frames, *more, both=True):
    """The backends fail after the connection's two packets."""
    names = ("b1", "b2") if both else ("b1",)
    return replay(config, frames, *(f"--fail=web/{name}@3" for name in names), *more)


@families
@pytest.mark.parametrize(
    "flags, payload, answer",
    [
        # With ACK the sequence is what the client expects; without, the reset acknowledges all that it sent.
        ("A", b"", ("R", 9001, 0)),
        ("PA", b"GET / HTTP/1.1\r\n\r\n", ("R", 9001, 0)),
        ("FA", b"", ("R", 9001, 0)),
        ("SA", b"", ("R", 9001, 0)),
        ("P", b"x" * 7, ("RA", 0, 1001 + 7)),
        ("F", b"x" * 7, ("RA", 0, 1001 + 7 + 1)),
        ("", b"", ("RA", 0, 1001)),
    ],
    ids=["ack", "data", "fin", "syn-ack", "data-no-ack", "fin-no-ack", "nothing"],
)
def test_sequence_and_acknowledgement(replay, vip, backends, flags, payload, answer):
    last = link() / ip(vip) / tcp(flags, seq=1001, ack=9001 if "A" in flags else 0) / Raw(payload)
    run = failing(replay, checked(vip, backends), [*connection(vip), last])
    assert run.summary["forwarded"] == 2
    assert run.summary["answered"] == 1
    assert_same(run.out[2], reset(last, *answer))


@families
def test_sequence_numbers_wrap(replay, vip, backends):
    last = link() / ip(vip) / tcp("F", seq=0xFFFFFFFE) / Raw(b"four")
    run = failing(replay, checked(vip, backends), [*connection(vip), last])
    assert_same(run.out[2], reset(last, "RA", 0, 3))


@families
def test_options_and_padding_are_not_data(replay, vip, backends):
    """A timestamp option makes the header 32 bytes; a short frame is padded to Ethernet's least."""
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    last = link() / ip(vip) / tcp("", seq=1001, options=options)
    padded = raw(last) + bytes(6)
    run = failing(replay, checked(vip, backends), [*connection(vip), padded])
    assert_same(run.out[2], reset(last, "RA", 0, 1001))


@families
def test_a_full_packet_becomes_a_small_reset(replay, vip, backends):
    last = filled(ip(vip), tcp("PA", seq=1001, ack=9001), 1500)
    run = failing(replay, checked(vip, backends), [*connection(vip), last])
    assert_same(run.out[2], reset(last, "R", 9001, 0))


@families
def test_a_reset_is_not_answered(replay, vip, backends):
    frames = [*connection(vip), link() / ip(vip) / tcp("R", seq=1001), link() / ip(vip) / tcp("RA", seq=1001, ack=9001)]
    run = failing(replay, checked(vip, backends), frames)
    assert run.summary["answered"] == 0
    assert run.summary["dropped"] == {"no_backend": 2}


def test_a_new_connection_goes_to_a_backend_that_lives(replay):
    """On the very ports of the lost one."""
    backends = [BACKEND4, ("10.0.1.12", 0)]
    syn = link() / ip4() / tcp("S", seq=7000)
    config = checked(backends=backends)
    alive = config.replace("weight = 0", "weight = 100")
    frames = connection(VIP4)
    lost = [line for line in replay(alive, frames, "--explain").explained][0]
    name = "b1" if "web/b1" in lost else "b2"
    other = "10.0.1.12" if name == "b1" else BACKEND4
    run = replay(alive, [*frames, syn], f"--fail=web/{name}@3")
    assert run.summary["answered"] == 0
    assert_same(run.out[2], tunnelled(syn, other))


def test_it_is_told_once(replay):
    """Then the flow is forgotten, and the next packet is one of an unknown connection."""
    last = link() / ip4() / tcp("A", seq=1001, ack=9001)
    run = failing(replay, checked(backends=[BACKEND4, "10.0.1.12"]), [*connection(VIP4), last, last], "--explain")
    assert run.summary["answered"] == 1
    assert run.summary["dropped"] == {"no_backend": 1}
    assert "answer tcp_reset: its backend web/b" in run.explained[2]


@pytest.mark.parametrize("source", ["127.0.0.1", "224.0.0.1"])
def test_a_source_that_is_no_host_gets_none(replay, source):
    frames = [link() / ip4(src=source) / tcp(flags) for flags in ("S", "A", "A")]
    assert failing(replay, checked(), frames, both=False).summary["answered"] == 0


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
def test_a_frame_to_many_stations_gets_none(replay, mac):
    last = link() / ip4() / tcp("A", seq=1001, ack=9001)
    last[Ether].dst = mac
    assert failing(replay, checked(), [*connection(VIP4), last], both=False).summary["answered"] == 0


@pytest.mark.parametrize("on_failure", ["rehash", "keep"])
def test_the_other_choices_answer_nothing(replay, on_failure):
    last = link() / ip4() / tcp("A", seq=1001, ack=9001)
    run = failing(replay, checked(on_failure=on_failure), [*connection(VIP4), last], both=False)
    assert run.summary["answered"] == 0
    if on_failure == "keep":
        assert_same(run.out[2], tunnelled(last, BACKEND4))
    else:
        assert run.summary["dropped"] == {"no_backend": 1}


def test_udp_is_selected_afresh(replay):
    config = checked(backends=[BACKEND4, "10.0.1.12"], protocol="udp")
    frames = [link() / ip4() / udp(sport=port) for port in range(1000, 1040)]
    run = replay(config, [*frames, *frames], "--fail=web/b1@41")
    assert run.summary["forwarded"] == 80
    assert {Ether(got)[IP].dst for got in run.out[:40]} == {BACKEND4, "10.0.1.12"}
    assert {Ether(got)[IP].dst for got in run.out[40:]} == {"10.0.1.12"}
