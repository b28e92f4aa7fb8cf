"""Which service and which backend: by VIP, protocol and port; by weight; and the same for all packets of a flow."""

import collections
import itertools
import math

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from packets import CLIENT4, VIP4, ip4, link, tcp, udp
from replay import service

WEIGHTS = {"10.0.1.1": 100, "10.0.1.2": 50, "10.0.1.3": 25, "10.0.1.4": 0}


def backends_of(run):
    return [Ether(got)[IP].dst for got in run.out]


def flows(count):
    """Distinct client addresses and ports, as bytes for speed: one template whose source fields change."""
    template = bytearray(bytes(link() / ip4(chksum=0) / tcp(chksum=0)))
    for n in range(count):
        template[26:30] = bytes([198, 51, 100, n % 250 + 1])
        template[34:36] = (1024 + n // 250).to_bytes(2, "big")
        yield bytes(template)


def spread(run):
    return collections.Counter(backends_of(run))


def chi_squared(counts, weights):
    total, weight_sum = sum(counts.values()), sum(weights.values())
    return sum((counts[a] - total * w / weight_sum) ** 2 / (total * w / weight_sum) for a, w in weights.items() if w)


def test_new_flows_spread_by_weight(replay):
    """10,000 flows, each backend within three standard deviations of the multinomial expectation; weight 0 gets none.
    The input and the secret are fixed, so this cannot flicker."""
    count = 10_000
    got = spread(replay(service(backends=list(WEIGHTS.items())), flows(count)))
    assert sum(got.values()) == count
    assert "10.0.1.4" not in got
    total = sum(WEIGHTS.values())
    for address, weight in WEIGHTS.items():
        share = weight / total
        assert abs(got[address] - count * share) <= 3 * math.sqrt(count * share * (1 - share)), got


def test_equal_weights_over_many_backends(replay):
    weights = {f"10.0.2.{n}": 100 for n in range(1, 101)}
    got = spread(replay(service(backends=list(weights.items())), flows(10_000)))
    freedom = len(weights) - 1
    assert chi_squared(got, weights) < freedom + 4 * math.sqrt(2 * freedom), got


def test_a_flow_stays_with_its_backend_over_the_whole_capture(replay):
    """Interleaved packets of 200 connections, from SYN to FIN."""
    ports = range(20000, 20200)
    script = ["S", "A", "PA", "PA", "A", "FA", "A"]
    frames = [
        link() / ip4() / tcp(sport=port, flags=flags) / Raw(bytes(position))
        for position, flags in enumerate(script)
        for port in ports
    ]
    run = replay(service(backends=list(WEIGHTS.items())), frames)
    chosen = collections.defaultdict(set)
    for frame, backend in zip(frames, backends_of(run)):
        chosen[frame["TCP"].sport].add(backend)
    assert len(run.out) == len(frames)
    assert all(len(seen) == 1 for seen in chosen.values())
    assert len(set().union(*chosen.values())) == 3


def test_two_runs_agree_and_the_order_in_the_file_does_not_matter(replay):
    """What makes two balancers interchangeable: names and weights decide, nothing else."""
    names = {"b1": ("10.0.1.1", 100), "b2": ("10.0.1.2", 60), "b3": ("10.0.1.3", 30)}
    head = service(backends=[]).rstrip("\n")
    runs = []
    for order in itertools.permutations(names):
        config = head
        for name in order:
            address, weight = names[name]
            config += f'\n[[service.backend]]\nname = "{name}"\naddress = "{address}"\nweight = {weight}'
        runs.append(backends_of(replay(config + "\n", flows(500))))
    assert all(run == runs[0] for run in runs)


def test_the_secret_changes_the_choice(replay):
    config = service(backends=list(WEIGHTS.items()))
    frames = list(flows(500))
    one = backends_of(replay('secret = "one"\n' + config, frames))
    two = backends_of(replay('secret = "two"\n' + config, frames))
    assert one == backends_of(replay('secret = "one"\n' + config, frames))
    assert one != two


def test_every_field_of_the_flow_counts(replay):
    """Flows that differ in one field only are spread: none of the five is left out of the hash."""
    weights = [("10.0.1.1", 100), ("10.0.1.2", 100)]
    config = service(port=0, backends=weights)
    config += service(name="other", vip="203.0.113.11", port=0, backends=weights)
    config += service(name="udp", port=0, protocol="udp", backends=weights)
    varied = {
        "source": [link() / ip4(src=f"198.51.100.{n}") / tcp() for n in range(1, 65)],
        "source port": [link() / ip4() / tcp(sport=n) for n in range(1000, 1064)],
        "destination port": [link() / ip4() / tcp(dport=n) for n in range(1000, 1064)],
    }
    for field, frames in varied.items():
        assert len(set(backends_of(replay(config, frames)))) == 2, field

    ports = range(1000, 1064)
    by_address = [backends_of(replay(config, [link() / ip4(vip) / tcp(sport=n) for n in ports]))
                  for vip in (VIP4, "203.0.113.11")]  # fmt: skip
    assert by_address[0] != by_address[1]
    by_protocol = [backends_of(replay(config, [link() / ip4() / layer(sport=n) for n in ports])) for layer in (tcp, udp)]
    assert by_protocol[0] != by_protocol[1]


@pytest.mark.parametrize("slots", [65537, 655373])
def test_either_table_size(replay, slots):
    got = spread(replay(service(backends=list(WEIGHTS.items()), table_size=slots), flows(2000)))
    assert chi_squared(got, WEIGHTS) < 2 + 4 * math.sqrt(2 * 2), got


def test_the_exact_port_comes_before_any_port(replay):
    config = service(name="any", port=0, backends=["10.0.9.1"]) + service(name="web", port=80, backends=["10.0.9.2"])
    run = replay(config, [link() / ip4() / tcp(dport=port) for port in (80, 81, 0, 65535)])
    assert backends_of(run) == ["10.0.9.2", "10.0.9.1", "10.0.9.1", "10.0.9.1"]


def test_vip_protocol_and_port_each_tell_services_apart(replay):
    keys = list(itertools.product([VIP4, "203.0.113.11"], ["tcp", "udp"], [53, 80]))
    config = "".join(
        service(name=f"s{n}", vip=vip, protocol=protocol, port=port, backends=[f"10.0.9.{n + 1}"])
        for n, (vip, protocol, port) in enumerate(keys)
    )
    layers = {"tcp": tcp, "udp": udp}
    run = replay(config, [link() / ip4(vip) / layers[protocol](dport=port) for vip, protocol, port in keys])
    assert backends_of(run) == [f"10.0.9.{n + 1}" for n in range(len(keys))]


def test_the_clients_reply_address_is_untouched(replay):
    run = replay(service(), [link() / ip4() / tcp()])
    inner = IP(bytes(run.only()[IP].payload))
    assert (inner.src, inner.dst) == (CLIENT4, VIP4)


def test_without_affinity_each_packet_goes_by_the_table_alone(replay):
    """The same choice for the same flow, and for the same secret the same as a tracked one's first; nothing tracked."""
    backends = list(WEIGHTS)[:3]
    packets = [link() / ip4(src=f"198.51.100.{n % 60 + 1}") / tcp(sport=1000 + n % 60) for n in range(240)]
    tracked = replay(service(backends=backends), packets, "--explain")
    stateless = replay(service(backends=backends, affinity="none"), packets, "--explain")
    assert backends_of(stateless) == backends_of(tracked)
    assert all(line.endswith("(stateless)") for line in stateless.explained) and len(stateless.explained) == 240
    assert tracked.explained[-1].endswith("(tracked flow)")
