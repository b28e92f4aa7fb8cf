"""The other ports: capture files in and out, and net_af_packet with two workers, with the real processes around them."""

from fabric import BACKENDS, program
from lab import wait_until
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap, wrpcap
from sluice import on_fabric, service
from traffic import curl_many

WEB = "203.0.113.10"
CONFIG = service("web", WEB, "ipip", on_fabric())
PACKETS = 200


def start_on(balancer, *ports, cores="1"):
    command = [program("dataplane/sluice-dataplane"), "--dir", balancer.directory, "--no-huge", "--cores", cores, *ports]
    balancer.dataplane = balancer.host.start("dataplane", command, cpus=range(2))


def wait_resolved(balancer):
    balancer.start_sluiced()
    balancer.wait_answering()
    wait_until(lambda: all(b["takes_new_flows"] for b in balancer.backends().values()), lambda: "all backends are up", 20)


def test_capture_files_in_and_out(idle_balancer, tmp_path):
    """Proves: a data plane between two capture files forwards each packet to a backend's address, by way of the next hop
    that the kernel knows, and accounts for what it does not forward."""
    balancer = idle_balancer
    wait_resolved(balancer)
    frames = [Ether(dst="02:00:00:00:00:01") / IP(src="198.51.100.2", dst=WEB) / TCP(sport=20000 + i, dport=80, flags="S")
              for i in range(PACKETS)]
    frames.append(Ether(dst="02:00:00:00:00:01") / IP(dst="203.0.113.99") / TCP())
    wrpcap(str(tmp_path / "in.pcap"), frames)
    start_on(balancer, "--vdev", f"net_pcap0,rx_pcap={tmp_path}/in.pcap,tx_pcap={tmp_path}/out.pcap")
    wait_until(lambda: balancer.dataplane_report()["dataplane"].get("workers") and
               balancer.accounting()["received"] == len(frames), lambda: "the capture is read", 20)
    assert balancer.accounting()["forwarded"] == PACKETS
    assert {name: count for name, count in balancer.reasons().items() if count} == {"no_exception_path": 1}
    balancer.dataplane.stop()

    macs = {b["address"]: b["next_hop"]["mac"] for b in balancer.backends().values()}
    out = rdpcap(str(tmp_path / "out.pcap"))
    assert len(out) == PACKETS
    for frame in out:
        assert frame[Ether].dst == macs[frame[IP].dst]
        assert frame[IP].src == "10.0.1.10"
        assert frame[IP].payload[IP].dst == WEB
    assert {frame[IP].dst for frame in out} == set(macs)


def test_af_packet_says_that_it_is_the_fallback_and_forwards(idle_balancer):
    """Proves: where there is no AF_XDP, real clients still reach real servers, through two workers; the data plane says
    what that costs; and frames that we sent ourselves, which such a port hears, are not taken for traffic."""
    balancer = idle_balancer
    wait_resolved(balancer)
    # The kernel sees VIP traffic as well on such a port, and must neither answer nor forward it.
    balancer.host.sysctl(net__ipv4__ip_forward=0)
    start_on(balancer, "--interface", "eth0", "--driver", "af_packet", cores="0,1")
    balancer.wait_ready()
    assert "net_af_packet, the slow fallback" in balancer.dataplane.output()
    client = balancer.fabric.hosts["c1"]
    results = curl_many(client, WEB, 100)
    assert not results.failures
    assert sum(results.by_backend.values()) == 100 and set(results.by_backend) == set(BACKENDS)
    counted = balancer.accounting()
    assert counted["forwarded"] >= 500
    assert counted["received"] == sum(counted[part] for part in ("forwarded", "answered", "passed", "dropped"))
    assert balancer.reasons().get("tx_full", 0) == 0


def test_more_workers_than_queues_is_one_clear_line(idle_balancer):
    """Proves: what a NIC cannot give is told before anything is touched, with the command that mends it."""
    balancer = idle_balancer
    done = balancer.host.run("taskset", "-c", "0,1", program("dataplane/sluice-dataplane"), "--dir", balancer.directory,
                             "--no-huge", "--interface", "eth0", "--workers", "2", check=False)
    assert done.returncode == 1
    assert "eth0 has 1 queue, 2 workers need one each" in done.stderr
    assert "--workers 1" in done.stderr
