"""Packets to send in, the packets that must come out, and a comparison that names the field that differs."""

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from replay import BALANCER_MAC, CLIENT_MAC, DMAC, SMAC, TUNNEL_SOURCE, TUNNEL_SOURCE6

VIP4, VIP6 = "203.0.113.10", "2001:db8:10::10"
CLIENT4, CLIENT6 = "198.51.100.7", "2001:db8:c::7"
BACKEND4, BACKEND6 = "10.0.1.11", "fd00:1::11"
ETHERNET_MIN = 60  # without the checksum, which no capture holds


def is_v6(address):
    return ":" in address


def link():
    return Ether(src=CLIENT_MAC, dst=BALANCER_MAC)


def ip4(dst=VIP4, src=CLIENT4, **fields):
    return IP(**{"src": src, "dst": dst, "ttl": 61, "id": 0x1234, "flags": "DF", **fields})


def ip6(dst=VIP6, src=CLIENT6, **fields):
    return IPv6(**{"src": src, "dst": dst, "hlim": 61, "fl": 0xABCDE, **fields})


def ip(vip=VIP4, **fields):
    return ip6(vip, **fields) if is_v6(vip) else ip4(vip, **fields)


def tcp(sport=40000, dport=80, flags="S", **fields):
    return TCP(sport=sport, dport=dport, flags=flags, seq=1000, **fields)


def udp(sport=40000, dport=80, **fields):
    return UDP(sport=sport, dport=dport, **fields)


def filled(network, transport, ip_bytes):
    """A frame whose IP packet has exactly `ip_bytes` bytes."""
    missing = ip_bytes - len(raw(network / transport))
    assert missing >= 0
    return link() / network / transport / Raw(bytes(i % 251 for i in range(missing)))


def rebuilt(packet):
    """The packet with every length and checksum filled in."""
    return packet.__class__(raw(packet))


def inner_of(frame):
    """The IP packet of a frame that came in, without Ethernet and padding."""
    network = rebuilt(frame).payload.copy()
    padding = network.getlayer("Padding")
    if padding is not None:
        padding.underlayer.remove_payload()
    return network


def one_hop_less(network):
    network = network.copy()
    if network.version == 6:
        network.hlim -= 1
    else:
        network.ttl -= 1
        del network.chksum
    return rebuilt(network)


def traffic_class(network):
    return network.tc if network.version == 6 else network.tos


def tunnelled(frame, backend, outer_id=0, flow_label=0):
    """What must leave for `frame`, sent to `backend` by IPIP: RFC 2003, 2473, 4213; 2983, 6040; 6864, 6438."""
    inner = one_hop_less(inner_of(frame))
    protocol = 41 if inner.version == 6 else 4
    ether = Ether(src=SMAC, dst=DMAC)
    if is_v6(backend):
        outer = IPv6(src=TUNNEL_SOURCE6, dst=backend, nh=protocol, hlim=64, tc=traffic_class(inner), fl=flow_label)
    else:
        keep_whole = inner.version == 6 or "DF" in inner.flags
        outer = IP(src=TUNNEL_SOURCE, dst=backend, proto=protocol, ttl=64, tos=traffic_class(inner))
        outer.flags, outer.id = ("DF", 0) if keep_whole else (0, outer_id)
    return ether / outer / Raw(raw(inner))


def too_big(frame, mtu, src_mac=BALANCER_MAC, dst_mac=CLIENT_MAC):
    """The answer to a frame that does not fit: RFC 792, 1191, 1812 4.3.2; RFC 4443 3.2."""
    offender = inner_of(frame)
    ether = Ether(src=src_mac, dst=dst_mac)
    if offender.version == 6:
        quoted = raw(offender)[: 1280 - 40 - 8]
        return ether / IPv6(src=offender.dst, dst=offender.src, nh=58, hlim=64) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quoted)
    quoted = raw(offender)[: 576 - 20 - 8]
    network = IP(src=offender.dst, dst=offender.src, ttl=64, tos=0xC0, flags="DF", id=0)
    return ether / network / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quoted)


def fields_of(packet):
    """(layer, field) -> value, all the way in."""
    values = {}
    for depth, layer in enumerate(packet.layers()):
        for field in packet[depth].fields_desc:
            values[(depth, layer.__name__, field.name)] = packet[depth].getfieldval(field.name)
    return values


def assert_same(got, expected):
    """Byte for byte; a difference is told as the fields that differ."""
    got, expected = raw(got), raw(expected)
    if got == expected:
        return
    got_fields, expected_fields = fields_of(Ether(got)), fields_of(Ether(expected))
    names = [name for name in {**expected_fields, **got_fields} if got_fields.get(name) != expected_fields.get(name)]
    lines = [f"{name}: got {got_fields.get(name)!r}, expected {expected_fields.get(name)!r}" for name in names]
    raise AssertionError(f"{len(got)} bytes, expected {len(expected)}\n" + "\n".join(lines))
