#!/usr/bin/python3
"""Writes the seed corpora below tests/fuzz/corpus/: run it after changing a seed; the same input gives the same files.

corpus/parse: frames as parse_fuzz.cc reads them, each behind its length; the VIPs are those of its configuration.
corpus/config: configuration files, right ones and one for each kind of fault.
corpus/protocol: a byte, and requests on the control socket.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "packet"))

from scapy.compat import raw  # noqa: E402
from scapy.layers.inet import ICMP, IPOption_NOP  # noqa: E402
from scapy.layers.inet6 import IPv6ExtHdrFragment, IPv6ExtHdrHopByHop  # noqa: E402
from scapy.layers.l2 import ARP, Dot1Q  # noqa: E402
from scapy.packet import Raw  # noqa: E402

from packets import filled, ip4, ip6, link, tcp, udp  # noqa: E402

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
DIRECT4, NOBODY4, DIRECT6 = "203.0.113.11", "203.0.113.12", "2001:db8:10::11"
MORE_ON_WIRE = 0x8000


def framed(*frames, flag=0):
    return b"".join((len(raw(frame)) | flag).to_bytes(2, "big") + raw(frame) for frame in frames)


def packet_seeds():
    connection = [link() / ip4() / tcp(flags=flags) / Raw(bytes(n)) for n, flags in enumerate(["S", "A", "FA", "S"])]
    return {
        "ipip4-connection": framed(*connection),
        "ipip4-padded": framed(raw(link() / ip4(flags=0, tos=0xB9) / tcp()).ljust(60, b"\0")),
        "ipip4-too-big": framed(filled(ip4(), tcp(flags="A"), 1490)),
        "ipip4-too-big-no-df": framed(filled(ip4(flags=0), tcp(flags="A"), 1490)),
        "ipip4-ttl": framed(link() / ip4(ttl=1) / tcp(), link() / ip4(ttl=0) / tcp()),
        "ipip6-flows": framed(*[link() / ip6(tc=n) / udp(sport=n) / Raw(b"q") for n in range(8)]),
        "ipip6-too-big": framed(filled(ip6(), udp(), 1481)),
        "direct4": framed(link() / ip4(DIRECT4) / udp(dport=53) / Raw(b"query")),
        "direct6": framed(link() / ip6(DIRECT6) / tcp(dport=443)),
        "direct6-too-big": framed(filled(ip6(DIRECT6), tcp(dport=443), 1501)),
        "nobody": framed(link() / ip4(NOBODY4) / tcp()),
        "several-segments": framed(link() / ip4(len=740) / tcp(flags="A"), flag=MORE_ON_WIRE),
        "options": framed(link() / ip4(options=[IPOption_NOP()] * 8) / tcp()),
        "extension-header": framed(link() / ip6() / IPv6ExtHdrHopByHop() / udp()),
        "fragments": framed(link() / ip4(flags="MF") / tcp(), link() / ip6() / IPv6ExtHdrFragment(m=1, id=1) / udp()),
        "not-ours": framed(link() / ARP(), link() / Dot1Q(vlan=1) / ip4() / tcp(), link() / ip4() / ICMP()),
    }


SERVICE = """[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
forward = "ipip"
"""
BACKEND = """  [[service.backend]]
  name = "b1"
  address = "10.0.1.11"
  weight = 100
"""


JSON = {"secret": "s", "service": [
    {"name": "web", "vip": "203.0.113.10", "port": 80, "protocol": "tcp", "forward": "ipip",
     "health": {"type": "tcp", "interval": "1s"}, "backend": [{"name": "b1", "address": "10.0.1.11", "weight": 100}]}]}


def config_seeds():
    health = 'health = { type = "http", path = "/", interval = "200ms", timeout = "100ms", rise = 2, fall = 2 }\n'
    return {
        "plain": SERVICE + BACKEND,
        "http": SERVICE + health + BACKEND,
        "full": 'secret = "s"\n'
        + SERVICE
        + 'initially = "up"\ntable_size = 655373\n'
        + 'idle_timeout = { syn = "30s", established = "15m", closing = "20s", udp = "60s" }\n'
        + 'health = { type = "tcp", port = 8080 }\n'
        + BACKEND,
        "ipv6": SERVICE.replace("203.0.113.10", "2001:db8::10") + BACKEND.replace("10.0.1.11", "fd00::11"),
        "inline": SERVICE + 'backend = [ { name = "a", address = "10.0.0.1", weight = 0 } ]\n',
        "unknown-key": SERVICE + BACKEND.replace("weight", "wieght"),
        "wrong-type": SERVICE.replace("80", '"80"') + BACKEND,
        "out-of-range": SERVICE.replace("80", "70000") + BACKEND.replace("100", "-1"),
        "no-backend": SERVICE,
        "twice": SERVICE + BACKEND + BACKEND + SERVICE + BACKEND,
        "syntax": SERVICE.replace("]]", "]") + BACKEND,
        "bad-address": SERVICE.replace("203.0.113.10", "203.0.113") + BACKEND,
        "family": SERVICE.replace("ipip", "l2dsr") + BACKEND.replace("10.0.1.11", "fd00::11"),
        "duration": SERVICE + health.replace("200ms", "200 parsecs") + BACKEND,
        "override": SERVICE + BACKEND + '[[override]]\nservice = "web"\nbackend = "b1"\nweight = 3\n'
        + '[[override]]\nservice = "web"\nbackend = "b2"\naddress = "10.0.1.12"\nadmin = "drain"\n',
        "override-name": SERVICE + BACKEND + '[[override]]\nservice = "web"\nbackend = "*b2"\naddress = "10.0.1.12"\n',
        "json": json.dumps(JSON, indent=1),
        "json-faults": json.dumps(JSON).replace("tcp", "tpc").replace("100", "1e2"),
    }


def protocol_seeds():
    def request(command, **arguments):
        return json.dumps({"v": 1, "cmd": command, **arguments}, separators=(",", ":")) + "\n"

    seeds = {
        "now": request("now", service="web", weight=50),
        "later": request("later", targets=["web/*"]) + request("now"),
        "parts": request("parts") + request("later") + request("parts"),
        "watch": request("now") + request("watch") + request("now"),
        "deep": request("now", a=[[[[{"b": "[[[\\\"]"}]]]]),
        "no-version": '{"cmd":"now"}\n',
        "no-object": "[]\n\n{}\n",
        "not-utf8": b'{"v":1,"cmd":"\xff"}\n',
        "half": '{"v":1,"cmd":"',
        "last": request("later").strip(),
    }
    # The first byte: how many are sent at a time.
    as_bytes = {name: seed if isinstance(seed, bytes) else seed.encode() for name, seed in seeds.items()}
    return {name: bytes([at % 3 * 7]) + seed for at, (name, seed) in enumerate(as_bytes.items())}


def write(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in seeds.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


if __name__ == "__main__":
    write(CORPUS / "parse", packet_seeds())
    write(CORPUS / "config", config_seeds())
    write(CORPUS / "protocol", protocol_seeds())
