"""The packet generator with the real processes: every packet accounted for on both sides, flows that keep their backend
through changes, and a checker that notices when they do not. Rates are low, so that a busy machine loses nothing; no test
looks at a time."""

import json
import math
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

PKTGEN = Path(__file__).resolve().parents[2] / "perf/pktgen"
sys.path.insert(0, str(PKTGEN))

from machine import Cpus, wait_until  # noqa: E402
from search import Goal, MlrSearch, Trial, binary_search, classify, conditional_throughput  # noqa: E402
from targets import Balancer, MacSwap  # noqa: E402

BUILD = Path(os.environ.get("SLUICE_BUILD", Path(__file__).resolve().parents[2] / "build"))
NO_HUGE = bool(os.environ.get("SLUICE_NO_HUGE"))
FLOWS_MAX = 1 << 18
RATE = 10_000  # a ring of 1,024 lasts a tenth of a second
WEIGHTS = [300, 200, 100]


@pytest.fixture(scope="module", autouse=True)
def all_cpus():
    """The other tests' laboratory keeps this process to one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    yield
    os.sched_setaffinity(0, before)


def start_balancer(**options):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return Balancer(BUILD, Cpus(), NO_HUGE, flows_max=FLOWS_MAX, **options)


@pytest.fixture(scope="module")
def balancer():
    with start_balancer(weights=WEIGHTS) as target:
        yield target


@pytest.fixture
def fresh_balancer():
    with start_balancer(weights=WEIGHTS) as target:
        yield target


def expect_clean(answer):
    """Nothing lost, nothing wrong, every buffer back."""
    wrong = {key: answer[key] for key in ("lost", "ring_full", "moved", "misdelivered", "corrupt", "mbufs_missing")}
    assert not any(wrong.values()), wrong
    assert answer["received"] == answer["sent"] > 0


def near(count, total, share, deviations=6.0):
    """Is `count` of `total` what this share gives, within so many standard deviations?"""
    return abs(count - total * share) <= deviations * math.sqrt(total * share * (1 - share)) + 1


def counted(target):
    """What sluice says: the accounting, and packets by backend in the generator's order."""
    backends = {f"{b['service']}/{b['name']}": b["packets"] for b in target.ask("show", "backends")["backends"]}
    return target.ask("show", "dataplane")["dataplane"]["accounting"], [backends[b["name"]] for b in target.backends]


# ---- Accounting ------------------------------------------------------------------------------------------------------


def test_both_sides_count_alike_and_backends_get_their_weights(balancer):
    """Proves: what the generator sent is what the balancer received, forwarded and counted for each backend; backends get
    flows by weight."""
    before, by_backend_before = counted(balancer)
    flows = 6000
    answer = balancer.run(flows=flows, forget=True, order="sequential", packets=3 * flows, rate=2 * RATE, seconds=30)
    expect_clean(answer)
    assert answer["sent"] == 3 * flows and answer["syn"] == flows
    after, by_backend_after = counted(balancer)
    assert after["received"] - before["received"] == answer["sent"]
    assert after["forwarded"] - before["forwarded"] == answer["received"]
    assert after["balanced"]
    assert [b - a for a, b in zip(by_backend_before, by_backend_after)] == answer["by_backend"]
    assert sum(answer["by_backend"]) == answer["received"]
    for packets, weight in zip(answer["by_backend"], WEIGHTS):
        assert packets % 3 == 0, "each of its flows sent three"
        assert near(packets // 3, flows, weight / sum(WEIGHTS)), (answer["by_backend"], WEIGHTS)


def test_no_flow_moves_while_weights_change_and_a_backend_drains(fresh_balancer):
    """Proves: live flows keep their backend through changes of weight and a drain, with old flows ending and new ones
    coming; a drained backend gets no new flow."""
    target = fresh_balancer
    traffic = {"flows": 3000, "rate": RATE}
    expect_clean(target.run(**traffic, order="sequential", packets=6000, seconds=30, forget=True))
    target.control.begin(target.trial(**traffic, churn=0.05, seconds=4))
    for words in (("weight", "s0/b0", 10), ("weight", "s0/b2", 900), ("drain", "s0/b1"), ("weight", "s0/b0", 500)):
        sent = target.control.progress()[0]
        wait_until(lambda n=sent: target.control.progress()[0] > n + 2000, "packets go on")
        assert target.ask("backend", *words).get("ack_us") is not None, words
    answer = target.control.wait(target.alive, 30)
    expect_clean(answer)
    assert answer["fin"] > 0 and min(answer["by_backend"]) > 0
    new = target.run(flows=1, rate=RATE, packets=2000, syn_flood=1.0, seconds=30)
    expect_clean(new)
    assert new["flood"] == 2000 and new["by_backend"][1] == 0 < min(new["by_backend"][0], new["by_backend"][2])


# ---- Traffic ---------------------------------------------------------------------------------------------------------


def test_churn_and_flood_are_what_was_asked_for(balancer):
    """Proves: the shares of new flows and of SYNs that nothing follows are those asked for, and every new flow but the
    first of its number comes with the end of an old one."""
    traffic = {"flows": 2000, "rate": RATE, "seconds": 2.0}
    expect_clean(balancer.run(**{**traffic, "order": "sequential", "packets": 4000, "forget": True}))
    answer = balancer.run(**traffic, churn=0.1, syn_flood=0.3)
    expect_clean(answer)
    sent = answer["sent"]
    assert near(answer["flood"], sent, 0.3)
    assert near(answer["syn"] - answer["flood"], sent, 0.1)
    assert abs(answer["syn"] - answer["flood"] - answer["fin"]) <= 1
    assert balancer.run(**traffic)["syn"] == 0, "all flows have begun, and none ends"


@pytest.mark.parametrize("forward", ["ipip", "l2dsr"])
def test_ipv6_and_mixed_sizes_over_several_services(forward):
    """Proves: IPv6 and frames up to 1,518 bytes go the same way, and each service's flows to its own backends only."""
    with start_balancer(weights=[100, 100], services=3, ipv6=True, forward=forward) as target:
        answer = target.run(flows=1200, rate=RATE, packets=3600, order="sequential", frame="imix", seconds=30)
        expect_clean(answer)
        assert answer["bytes"] == 300 * (7 * 78 + 4 * 570 + 1518), "64 bytes are too few for IPv6 and TCP: 78"
        assert len(answer["by_backend"]) == 6 and min(answer["by_backend"]) > 0
        assert answer["latency_ns"]["p50"] <= answer["latency_ns"]["p99"] <= answer["latency_ns"]["max"]
        assert sum(count for _, count in answer["latency_histogram_ns"]) == answer["received"]


# ---- What must be noticed --------------------------------------------------------------------------------------------


def test_flows_that_must_move_are_seen_to_move(fresh_balancer):
    """Proves the checker, with the real data plane: a backend in maintenance loses its flows, and each is counted once."""
    target = fresh_balancer
    traffic = {"flows": 900, "rate": RATE, "order": "sequential", "seconds": 30}
    first = target.run(**traffic, packets=1800, forget=True)
    expect_clean(first)
    assert target.ask("backend", "maint", "s0/b0").get("ack_us") is not None
    answer = target.run(**traffic, packets=2700)
    assert answer["moved"] == first["by_backend"][0] // 2 > 0
    assert answer["lost"] == answer["misdelivered"] == answer["corrupt"] == answer["by_backend"][0] == 0


def test_packets_for_the_wrong_station_or_nobody_are_noticed(balancer):
    """Proves the checker: against a list of backends that is not the balancer's, packets are misdelivered."""
    wanted = balancer.trial(flows=300, packets=900, rate=RATE, order="sequential", seconds=30, forget=True)
    good = balancer.control.run(wanted, balancer.alive)
    expect_clean(good)
    stranger = {**wanted["backends"][0], "address": "172.31.255.1"}
    swapped = {**wanted["backends"][0], "mac": wanted["backends"][1]["mac"]}
    for wrong in (stranger, swapped):
        answer = balancer.control.run({**wanted, "backends": [wrong, *wanted["backends"][1:]]}, balancer.alive)
        assert answer["misdelivered"] == good["by_backend"][0] > 0
        assert answer["by_backend"][1:] == good["by_backend"][1:]


def test_what_the_target_drops_is_lost_and_its_buffers_come_back(balancer):
    """Proves: packets for no service are counted as lost, one by one, and none of their buffers is missing."""
    before = counted(balancer)[0]
    answer = balancer.run(flows=300, packets=3000, rate=RATE, seconds=30, forget=True,
                          vips=[{"address": "198.19.0.1", "port": 80}])
    assert (answer["lost"], answer["received"], answer["mbufs_missing"]) == (3000, 0, 0)
    after = counted(balancer)[0]
    assert after["passed"] + after["dropped"] - before["passed"] - before["dropped"] == 3000


# ---- The driver ------------------------------------------------------------------------------------------------------


def test_the_driver_reports_every_row(tmp_path):
    """Proves: the benchmark itself works, small, with testpmd where it is installed; its figures are not looked at."""
    file = tmp_path / "out.json"
    floor = shutil.which("dpdk-testpmd") is not None
    command = [PKTGEN / "pktgen.py", BUILD, "--flows", "2000", "--repeat", "2", "--seconds", "0.1", "--trial-seconds", "0.05",
               "--initial-seconds", "0.05", "--backends", "4", "--json", file]
    command += ([] if floor else ["--no-floor"]) + (["--no-huge"] if NO_HUGE else [])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["results"]}
    expected = ["ipip/throughput/2000", "ipip/rfc2544/2000", "ipip/mlr/0/2000", "ipip/mlr/0.5/2000", "ipip/latency/10",
                "ipip/latency/50", "ipip/latency/90"] + (["macswap/throughput"] if floor else [])
    assert set(rows) == {f"pktgen/{name}" for name in expected}
    assert rows["pktgen/ipip/throughput/2000"]["per_second"] > 0 and rows["pktgen/ipip/throughput/2000"]["cycles"] > 0
    assert all(name in done.stdout for name in rows)
    assert report["machine"]["tsc_hz"] > 0


def test_testpmd_on_the_same_port():
    if shutil.which("dpdk-testpmd") is None:
        pytest.skip("dpdk-testpmd is not installed")
    with MacSwap(BUILD, Cpus(), NO_HUGE) as target:
        expect_clean(target.run(flows=500, rate=RATE, packets=2000, seconds=30))
        cycles, packets = target.cycles()
        assert cycles > 0 and packets >= 2000


# ---- The profile for hosts with NICs ---------------------------------------------------------------------------------


class Recorded:
    """Stands for any class of TRex's interface: keeps what it is made of."""

    def __init__(self, *arguments, **named):
        self.arguments = arguments
        self.__dict__.update(named)


def trex_streams(monkeypatch, *tunables):
    """What perf/nic/trex_stl.py makes, with Scapy's packets and a stand-in for the rest of TRex's interface."""
    names = ("STLFlowLatencyStats", "STLPktBuilder", "STLScVmRaw", "STLStream", "STLTXCont", "STLVmFixChecksumHw",
             "STLVmTupleGen", "STLVmWrFlowVar")
    api = SimpleNamespace(IP=IP, TCP=TCP, Ether=Ether, CTRexVmInsFixHwCs=SimpleNamespace(L4_TYPE_TCP=13),
                          **{name: type(name, (Recorded,), {}) for name in names})
    monkeypatch.setitem(sys.modules, "trex_stl_lib", SimpleNamespace(api=api))
    monkeypatch.setitem(sys.modules, "trex_stl_lib.api", api)
    profile = runpy.run_path(str(PKTGEN.parent / "nic/trex_stl.py"))
    return profile["register"]().get_streams(tunables=tunables)


@pytest.mark.parametrize("tunables, sizes", [
    ((), {64: 1.0}),
    (("--size", "imix"), {64: 7 / 12, 570: 4 / 12, 1518: 1 / 12}),
    (("--churn", "0.01", "--syn_flood", "0.5"), {64: 1.0})])
def test_the_trex_profile_describes_the_same_runs(monkeypatch, tunables, sizes):
    """Proves: its packets are whole, of the sizes and in the shares asked for, and as many clients as flows."""
    streams = trex_streams(monkeypatch, *tunables)
    shares = {}
    for stream in streams:
        frame = bytes(stream.packet.pkt)
        packet = Ether(frame)
        shares[len(frame) + 4] = shares.get(len(frame) + 4, 0) + stream.mode.pps / 1e6
        again = packet.copy()
        del again[IP].chksum, again[IP].len, again[TCP].chksum
        assert bytes(Ether(bytes(again))) == frame, "lengths and checksums are right"
        assert (packet[IP].dst, packet[TCP].dport) == ("198.18.0.1", 80)
        clients = stream.packet.vm.arguments[0][0]
        count = ((int(ip_address(clients.ip_max)) - int(ip_address(clients.ip_min)) + 1)
                 * (clients.port_max - clients.port_min + 1))
        assert count == clients.limit_flows
        assert count == 1_000_000 if packet[TCP].flags == "A" else count > 100_000_000
    assert shares == pytest.approx(sizes)
    syns = sum(s.mode.pps for s in streams if Ether(bytes(s.packet.pkt))[TCP].flags == "S") / 1e6
    assert syns == pytest.approx(0.51 if "--churn" in tunables else 0.0)


# ---- The searches, against targets that are formulas -----------------------------------------------------------------


def test_loads_are_classified_as_the_rfc_says():
    """RFC 9971's own example search: goals, trials added point by point, and what the load is for each goal then."""
    goals = [Goal(0.0, 60, 60, 0.0), Goal(0.0, 60, 120, 0.5), Goal(0.005, 1, 120, 0.5)]
    steps = [([Trial(1e6, 1, 0.0)] * 59, ["undecided", "undecided", "undecided"]),
             ([Trial(1e6, 1, 0.01)], ["upper", "undecided", "undecided"]),
             ([Trial(1e6, 1, 0.01)] * 59, ["upper", "undecided", "undecided"]),
             ([Trial(1e6, 1, 0.0)], ["upper", "undecided", "lower"]),
             ([Trial(1e6, 60, 0.001)], ["upper", "undecided", "lower"]),
             ([Trial(1e6, 60, 0.0)], ["upper", "lower", "lower"])]
    trials = []
    for more, expected in steps:
        trials += more
        assert [classify(goal, trials) for goal in goals] == expected
    assert conditional_throughput(goals[1], 1e6, trials) == 1e6
    assert conditional_throughput(Goal(0.005, 60, 60, 0.2), 1e6, trials) == 999_000


def target_of(capacity, chance=random.Random(5), outliers_per_s=0.0):
    """Forwards up to `capacity` and loses the rest; now and then a trial loses a little whatever the load."""
    def measure(load, seconds):
        lost = max(0.0, 1 - capacity / load)
        return min(1.0, lost + (0.01 if chance.random() < outliers_per_s * seconds else 0.0))
    return measure


@pytest.mark.parametrize("capacity", [1.3e6, 7e6, 23.4e6, 29e6])
def test_searches_find_what_a_target_can_do(capacity):
    load, trials = binary_search(target_of(capacity), 1e4, 3e7, 1.0)
    assert capacity / 1.011 <= load <= capacity and len(trials) < 25
    for outliers in (0.0, 0.1):
        results = MlrSearch(target_of(capacity, random.Random(5), outliers), [Goal(0.0), Goal(0.005)], 1e4, 3e7).run()
        zero, half = results
        assert zero.regular and half.regular
        assert capacity / 1.03 <= zero.lower <= capacity * 1.001
        assert capacity / 1.03 <= half.lower <= capacity * 1.006
        assert zero.upper <= zero.lower * 1.011


def test_searches_say_when_there_is_nothing_to_find():
    assert binary_search(lambda load, seconds: 0.1, 1e4, 3e7, 1.0)[0] == 0.0
    (result,) = MlrSearch(lambda load, seconds: 0.1, [Goal(0.0)], 1e4, 3e7).run()
    assert (result.lower, result.conditional, result.regular) == (0.0, 0.0, False)
    assert binary_search(lambda load, seconds: 0.0, 1e4, 3e7, 1.0)[0] == 3e7
    (result,) = MlrSearch(lambda load, seconds: 0.0, [Goal(0.0)], 1e4, 3e7).run()
    assert (result.lower, result.upper, result.regular) == (3e7, 0.0, False)
