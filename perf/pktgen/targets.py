"""The programs that are measured, each started with the generator's port: sluice-dataplane with a real sluiced, and
dpdk-testpmd in macswap mode, the floor.

A target is a context manager; at the end its processes, its network namespace and its files are gone. `run` does a trial;
`cycles` tells what the target's own core has spent on packets since the last call.
"""

import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from control import Control, PktgenError
from machine import Child, wait_until

VIPS4, VIPS6 = "198.18.{}.{}", "2001:db8:100::{:x}"  # RFC 2544 C.2.2 has set 198.18.0.0/15 aside for benchmarks
OWN4, OWN6 = "172.16.0.1", "fd00:51::1"
MTU_BYTES = 1600  # room for the outer header of 1,518-byte frames
TEARDOWN_S = 15.0
PINS = Path("/sys/fs/bpf/sluice")


class Target:
    """What both have in common: a folder, the control file, and the process that has the port."""

    name = ""

    def __init__(self, build, cpus, no_huge):
        self.build, self.cpus, self.no_huge = Path(build), cpus, no_huge
        self.folder = self.control = self.process = None
        self._children = []

    def __enter__(self):
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="sluice-pktgen-", dir="/dev/shm"))
            self.control = Control(self.folder / "control")
            self.start()
            self.control.wait_ready(self.alive)
            self.wait_forwarding()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.control:
            self.control.stop()
        for child in reversed(self._children):
            child.stop(TEARDOWN_S)
        self._children = []
        self.clean()
        if self.control:
            self.control.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.control = self.folder = None

    def clean(self):
        pass

    def start(self):
        raise NotImplementedError

    def devargs(self):
        return f"net_pktgen0,cpu={self.cpus.generator},control={self.control.path}"

    def child(self, command, cpus, **options):
        child = Child(command, self.folder / f"{len(self._children)}.log", cpus, **options)
        self._children.append(child)
        return child

    def start_preloaded(self, command, prefix=(), **options):
        library = self.build / "perf/pktgen/libsluice_pktgen.so"
        if not library.exists():
            raise PktgenError(f"{library} is not built\n  try: ninja -C {self.build}")
        # All CPUs: it pins its threads itself.
        self.process = self.child([*prefix, "env", f"LD_PRELOAD={library}", *command], self.cpus.all, **options)

    def alive(self):
        for child in self._children:
            child.expect_running()

    def trial(self, **wanted):
        """A request (trial.h) for this target."""
        raise NotImplementedError

    def wait_forwarding(self):
        """A few packets come back: every part of the way is up."""
        trial = self.trial(packets=64, flows=64, rate=10_000, forget=True)
        answer = {}

        def comes_back():
            nonlocal answer
            answer = self.control.run(trial, self.alive)
            return answer["received"] == answer["sent"] > 0 and answer["corrupt"] + answer["misdelivered"] == 0
        wait_until(comes_back, lambda: f"{self.name} forwards; the last trial: {answer}\n{self.process.output()[-1500:]}")

    def run(self, **wanted):
        return self.control.run(self.trial(**wanted), self.alive)

    def cycles(self):
        """(cycles, packets) of the target's core since the last call: only of turns that had packets."""
        raise NotImplementedError

    def interruptions(self):
        """How often the target's worker had to give its CPU to another, ever."""
        total = 0
        for status in Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if fields["Cpus_allowed_list"].strip() == str(self.cpus.worker):
                total += int(fields["nonvoluntary_ctxt_switches"])
        return total


class MacSwap(Target):
    name = "testpmd macswap"

    def start(self):
        if shutil.which("dpdk-testpmd") is None:
            raise PktgenError("dpdk-testpmd is missing\n  try: apt-get install dpdk-dev")
        memory = ["--no-huge", "-m", "256", "--no-shconf"] if self.no_huge else ["--in-memory", "-m", "160"]
        lcores = f"(0)@{self.cpus.rest},(1)@{self.cpus.worker}"
        # The burst that sluice-dataplane takes, and as many descriptors.
        command = ["dpdk-testpmd", "--lcores", lcores, "--no-pci", "--no-telemetry", *memory, "--vdev", self.devargs(), "--",
                   "--interactive", "--auto-start", "--forward-mode=macswap", "--nb-cores=1", "--burst=64", "--rxd=1024",
                   "--txd=1024", "--total-num-mbufs=16384", "--record-core-cycles"]
        self.start_preloaded(command, stdin=subprocess.PIPE)

    def trial(self, **wanted):
        trial = {"path": "macswap", "vips": [{"address": VIPS4.format(0, 1), "port": 80}], **wanted}
        return trial

    def tell(self, command):
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def cycles(self):
        seen = len(self.process.output())
        self.tell("show fwd stats all")
        found = None

        def is_told():
            nonlocal found
            found = re.search(r"\(total cycles=(\d+) / total macswap packets=(\d+)\)", self.process.output()[seen:])
            return found
        wait_until(is_told, "testpmd tells its cycles", 5.0)
        self.tell("clear fwd stats all")
        time.sleep(0.1)
        return int(found.group(1)), int(found.group(2))


class Balancer(Target):
    """sluiced and sluice-dataplane in a network namespace where all backends are neighbours; they need not exist."""

    def __init__(self, build, cpus, no_huge, *, flows_max, backends=8, services=1, forward="ipip", ipv6=False, weights=None,
                 more=""):
        super().__init__(build, cpus, no_huge)
        self.name = f"sluice {forward}"
        self.flows_max, self.forward, self.ipv6, self.more = flows_max, forward, ipv6, more
        self.vips = [{"address": (VIPS6.format(s + 1) if ipv6 else VIPS4.format((s + 1) >> 8, (s + 1) & 255)), "port": 80}
                     for s in range(services)]
        self.weights = weights or [100] * backends
        # In the order of the trial's by_backend.
        self.backends = [self._backend(s, b) for s in range(services) for b in range(len(self.weights))]
        self.netns = None
        self._seen = (0, 0)

    def _backend(self, service, number):
        n = 0x101 + service * len(self.weights) + number
        address = f"fd00:51::1:{n >> 16:x}:{n & 0xffff:x}" if self.ipv6 else f"172.{16 + (n >> 16)}.{n >> 8 & 255}.{n & 255}"
        return {"address": address, "vip": service, "name": f"s{service}/b{number}",
                "mac": f"02:51:{n >> 24 & 255:02x}:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"}

    def configuration(self):
        lines = []
        for s, vip in enumerate(self.vips):
            lines += ["[[service]]", f'name = "s{s}"', f'vip = "{vip["address"]}"', "port = 80", 'protocol = "tcp"',
                      f'forward = "{self.forward}"', 'health = { type = "none" }', self.more]
            for backend, weight in zip(self.backends[s * len(self.weights):], self.weights):
                lines += ["[[service.backend]]", f'name = "{backend["name"].split("/")[1]}"',
                          f'address = "{backend["address"]}"', f"weight = {weight}"]
        return "\n".join(lines) + "\n"

    def make_network(self):
        self.netns = self.folder.name
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        lines = [f"link add eth0 mtu {MTU_BYTES} type veth peer name other mtu {MTU_BYTES}", "link set other up",
                 f"addr add {OWN4}/12 dev eth0", f"addr add {OWN6}/64 dev eth0 nodad", "link set eth0 up", "link set lo up"]
        lines += [f"neigh add {b['address']} lladdr {b['mac']} dev eth0 nud permanent" for b in self.backends]
        subprocess.run(["ip", "-netns", self.netns, "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def start(self):
        self.make_network()
        (self.folder / "pktgen.toml").write_text(self.configuration())
        inside = ["nsenter", f"--net=/run/netns/{self.netns}"]
        instance = ["--dir", self.folder / "instance"]
        self.child([*inside, self.build / "controlplane/sluiced", self.folder / "pktgen.toml", *instance,
                    "--state", self.folder / "state"], {self.cpus.rest})
        huge = ["--no-huge"] if self.no_huge else []
        self.start_preloaded([self.build / "dataplane/sluice-dataplane", *instance, "--vdev", self.devargs(), "--cores",
                              self.cpus.worker, "--flows-max", self.flows_max, *huge], inside)

    def clean(self):
        if self.netns:
            subprocess.run(["ip", "netns", "del", self.netns], check=False)
            # As instance_name() in src/segment.h says.
            pins = PINS / str(self.folder / "instance").strip("/").replace("/", "+").replace(".", "_")
            shutil.rmtree(pins, ignore_errors=True)
            if PINS.is_dir() and not any(PINS.iterdir()):
                PINS.rmdir()

    def wait_forwarding(self):
        def is_ready():
            self.alive()
            backends = self.ask("show", "backends").get("backends", [])
            return len(backends) == len(self.backends) and all(b["takes_new_flows"] for b in backends) and self.follows()
        wait_until(is_ready, lambda: "all backends take new flows\n" + "\n".join(c.output()[-800:] for c in self._children))
        super().wait_forwarding()
        self.cycles()

    def trial(self, **wanted):
        return {"path": self.forward, "vips": self.vips, "backends": self.backends, **wanted}

    # ---- The CLI -----------------------------------------------------------------------------------------------------

    def ask(self, *words):
        """The answer of `sluice --json WORDS`, {} when there is none."""
        command = [self.build / "controlplane/sluice", "--dir", self.folder / "instance", "--json", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def workers(self):
        return [w for w in self.ask("show", "dataplane").get("dataplane", {}).get("workers", []) if w["active"]]

    def follows(self):
        """Has the worker acknowledged the newest generation?"""
        report = self.ask("show", "dataplane")
        workers = [w for w in report.get("dataplane", {}).get("workers", []) if w["active"]]
        return bool(workers) and all(w["acknowledged"] >= report["control"]["generation"] for w in workers)

    def cycles(self):
        (worker,) = self.workers()
        now = (worker["busy_cycles"], worker["received"])
        before, self._seen = self._seen, now
        return now[0] - before[0], now[1] - before[1]
