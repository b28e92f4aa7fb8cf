"""Runs sluice-replay over packets and reads back what left, what was counted and what was explained.

Every run checks what must hold for any input: exit status 0, every packet accounted for exactly once, and as many
packets in the output as were forwarded and answered.
"""

import json
import os
import pathlib
import subprocess
from dataclasses import dataclass

from scapy.layers.l2 import Ether
from scapy.utils import PcapReader, PcapWriter

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD", REPOSITORY / "build"))
PROGRAM = BUILD / "dataplane" / "sluice-replay"

CLIENT_MAC, BALANCER_MAC = "02:00:00:00:0c:01", "02:00:00:00:0b:01"  # of the packets that come in
SMAC, DMAC = "02:00:00:00:0b:02", "02:00:00:00:0d:01"  # of those that go to backends
TUNNEL_SOURCE, TUNNEL_SOURCE6 = "10.0.1.1", "fd00:1::1"
MTU = 1500
TIMEOUT_S = 60


@dataclass
class Run:
    out: list  # frames that left, bytes each, in order
    summary: dict  # received, forwarded, answered, passed {reason: n}, dropped {reason: n}
    explained: list  # lines of --explain
    stderr: str

    def only(self):
        """The one frame that left."""
        assert len(self.out) == 1, f"{len(self.out)} frames left; {self.summary}"
        return Ether(self.out[0])

    def reasons(self):
        return {**self.summary["passed"], **self.summary["dropped"]}


def service(name="web", vip="203.0.113.10", port=80, protocol="tcp", forward="ipip", backends=("10.0.1.11",), **more):
    """A [[service]] of the configuration; a backend is an address or (address, weight)."""
    lines = ["[[service]]", f'name = "{name}"', f'vip = "{vip}"', f"port = {port}", f'protocol = "{protocol}"']
    lines += [f'forward = "{forward}"', 'health = { type = "none" }']
    lines += [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    for number, backend in enumerate(backends, start=1):
        address, weight = backend if isinstance(backend, tuple) else (backend, 100)
        lines += ["[[service.backend]]", f'name = "b{number}"', f'address = "{address}"', f"weight = {weight}"]
    return "\n".join(lines) + "\n"


def write_pcap(path, frames):
    """Frames are scapy packets or bytes; all of one second, so that nothing depends on the clock."""
    writer = PcapWriter(str(path), linktype=1)
    writer.write_header(None)
    for frame in frames:
        writer.write_packet(bytes(frame), sec=1_700_000_000, usec=0)
    writer.close()


def read_pcap(path):
    with PcapReader(str(path)) as reader:
        return [bytes(packet) for packet in reader]


def command(config, source, target, *options):
    return [str(PROGRAM), str(config), str(source), str(target), *options]


def check_accounting(summary, packets_in, packets_out):
    refused = sum(summary["passed"].values()) + sum(summary["dropped"].values())
    assert summary["received"] == packets_in
    assert summary["received"] == summary["forwarded"] + summary["answered"] + refused, summary
    assert summary["forwarded"] + summary["answered"] == packets_out


class Replay:
    """Callable: replay(config_text, frames) -> Run."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, config, frames, *options, mtu=MTU):
        names = ["config.toml", "in.pcap", "out.pcap", "summary.json"]
        toml, source, target, summary = (self.folder / name for name in names)
        frames = list(frames)
        toml.write_text(config)
        write_pcap(source, frames)
        for old in (target, summary):
            old.unlink(missing_ok=True)
        fixed = ["--smac", SMAC, "--dmac", DMAC, "--tunnel-source", TUNNEL_SOURCE, "--tunnel-source6", TUNNEL_SOURCE6]
        done = subprocess.run(
            command(toml, source, target, *fixed, "--mtu", str(mtu), "--json", str(summary), *options),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
        run = Run(read_pcap(target), json.loads(summary.read_text()), done.stdout.splitlines(), done.stderr)
        check_accounting(run.summary, len(frames), len(run.out))
        return run
