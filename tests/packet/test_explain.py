"""--explain, the summary line and captures that are not what they should be: what an operator sees."""

import re
import struct
import subprocess

import pytest
from scapy.compat import raw
from scapy.layers.l2 import ARP
from scapy.packet import Raw

from packets import BACKEND6, VIP6, assert_same, filled, ip4, ip6, link, tcp, tunnelled, udp
from replay import command, service, write_pcap

CONFIG = service(backends=["10.0.1.11", "10.0.1.12"]) + service(name="web6", vip=VIP6, backends=[BACKEND6])


def test_a_line_for_each_packet(replay):
    frames = [
        link() / ip4() / tcp(),
        link() / ip4() / tcp(flags="A"),
        link() / ip6() / tcp(sport=5),
        filled(ip6(), tcp(sport=5, flags="A"), 1500),
        link() / ip4() / udp(),
        link() / ARP(),
        raw(link() / ip4() / tcp())[:50],
    ]
    lines = replay(CONFIG, frames, "--explain").explained
    expected = [
        r"1 tcp 198\.51\.100\.7:40000 > 203\.0\.113\.10:80 forward web/b[12] 10\.0\.1\.1[12] \(new flow\)",
        r"2 tcp 198\.51\.100\.7:40000 > 203\.0\.113\.10:80 forward web/b[12] 10\.0\.1\.1[12] \(tracked flow\)",
        r"3 tcp \[2001:db8:c::7\]:5 > \[2001:db8:10::10\]:80 forward web6/b1 fd00:1::11 \(new flow\)",
        r"4 tcp \[2001:db8:c::7\]:5 > \[2001:db8:10::10\]:80 answer packet_too_big: .* web6/b1",
        r"5 udp 198\.51\.100\.7:40000 > 203\.0\.113\.10:80 pass no_service: .+",
        r"6 pass not_ip: .+",
        r"7 drop truncated: .+",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected):
        assert re.fullmatch(pattern, line), line


def test_explain_names_the_backend_that_the_packet_goes_to(replay):
    frames = [link() / ip4() / tcp(sport=port) for port in range(1000, 1100)]
    run = replay(CONFIG, frames, "--explain")
    for frame, line, got in zip(frames, run.explained, run.out):
        address = line.split()[-3]
        assert line.split()[-4] == {"10.0.1.11": "web/b1", "10.0.1.12": "web/b2"}[address]
        assert_same(got, tunnelled(frame, address))


def test_without_explain_stdout_is_empty_and_the_sum_on_stderr(replay):
    frames = [link() / ip4() / tcp()] * 3 + [link() / ARP()] * 2 + [link() / ip4(ttl=1) / tcp()]
    run = replay(CONFIG, frames)
    assert run.explained == []
    words = "received 6 = forwarded 3 + answered 0 + passed not_ip 2 + dropped ttl_expired 1"
    assert run.stderr.splitlines()[-1] == words


def test_a_port_used_again_after_the_connection_is_a_new_flow(replay):
    script = [("S", "new flow"), ("A", "tracked flow"), ("FA", "tracked flow"), ("S", "port reused, selected afresh")]
    run = replay(CONFIG, [link() / ip4() / tcp(flags=flags) for flags, _ in script], "--explain")
    assert [re.search(r"\((.*)\)", line).group(1) for line in run.explained] == [how for _, how in script]


def run_raw(replay, capture, *options):
    """On a file that holds these very bytes."""
    source, toml = replay.folder / "raw.pcap", replay.folder / "config.toml"
    source.write_bytes(capture)
    toml.write_text(CONFIG)
    target = replay.folder / "out.pcap"
    return subprocess.run(command(toml, source, target, *options), capture_output=True, text=True, timeout=60, check=False)


def pcap_bytes(linktype, *records):
    """Records are (bytes on the wire, bytes captured)."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
    for wire, captured in records:
        data += struct.pack("<IIII", 1_700_000_000, 0, len(captured), wire) + captured
    return data


def test_a_capture_with_a_snap_length_is_explained_all_the_same(replay):
    """The headers are there, the rest was on the wire: the verdict is that of the whole packet."""
    frame = raw(link() / ip4() / tcp() / Raw(bytes(1000)))
    done = run_raw(replay, pcap_bytes(1, (len(frame), frame[:96]), (len(frame), frame[:40])), "--explain")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert " forward web/" in lines[0]
    assert lines[1].startswith("2 drop truncated")


def test_no_ethernet_capture(replay):
    done = run_raw(replay, pcap_bytes(101, (40, bytes(40))))
    assert done.returncode == 1
    assert "not Ethernet" in done.stderr


@pytest.mark.parametrize("content", [b"", b"not a capture at all", pcap_bytes(1)[:20]], ids=["empty", "text", "cut header"])
def test_no_capture(replay, content):
    done = run_raw(replay, content)
    assert done.returncode == 1
    assert done.stderr.startswith("sluice-replay: ")


def test_a_capture_cut_in_the_middle_is_replayed_up_to_there_and_said_so(replay):
    frame = raw(link() / ip4() / tcp())
    done = run_raw(replay, pcap_bytes(1, (len(frame), frame), (len(frame), frame))[:-10], "--explain")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "received 1 = forwarded 1" in done.stderr
    assert "raw.pcap" in done.stderr


def test_missing_files(replay):
    toml, source = replay.folder / "config.toml", replay.folder / "in.pcap"
    toml.write_text(CONFIG)
    write_pcap(source, [])
    missing = replay.folder / "missing"
    for arguments, status in [
        ((missing, source, replay.folder / "out"), 3),
        ((toml, missing, replay.folder / "out"), 1),
        ((toml, source, replay.folder / "no" / "out"), 1),
    ]:
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        assert "missing" in done.stderr or "no/out" in done.stderr


def test_a_faulty_configuration_is_refused_with_its_place(replay):
    toml, source = replay.folder / "config.toml", replay.folder / "in.pcap"
    write_pcap(source, [])
    for text, status in [('[[service]\nname = "web"\n', 3), (CONFIG.replace("weight", "wieght"), 4)]:
        toml.write_text(text)
        arguments = command(toml, source, replay.folder / "out.pcap")
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        assert re.search(r"config\.toml:\d+:\d+: ", done.stderr)


def test_an_empty_capture(replay):
    run = replay(CONFIG, [])
    assert run.summary["received"] == 0
