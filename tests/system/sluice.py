"""The balancer of a Fabric: a configuration, sluiced and sluice-dataplane on host `lb`, and the CLI."""

import json
import os
import shutil
from pathlib import Path

from fabric import BACKENDS, program
from lab import LabError, run, wait_until

HEALTH = '{ type = "http", path = "/health", interval = "200ms", timeout = "150ms", rise = 2, fall = 2 }'


def service(name, vip, forward, backends, port=80, protocol="tcp", health=HEALTH, more=""):
    """TOML of one service; backends: {name: (address, weight)}."""
    lines = ["[[service]]", f'name = "{name}"', f'vip = "{vip}"', f"port = {port}", f'protocol = "{protocol}"',
             f'forward = "{forward}"', f"health = {health}", more]
    for backend, (address, weight) in backends.items():
        lines += ["  [[service.backend]]", f'  name = "{backend}"', f'  address = "{address}"', f"  weight = {weight}"]
    return "\n".join(lines) + "\n"


def on_fabric(weights=None, ipv6=False):
    """{name: (address, weight)} of the fabric's backends."""
    weights = weights or dict.fromkeys(BACKENDS, 100)
    prefix = "2001:db8:1::" if ipv6 else "10.0.1."
    return {name: (f"{prefix}{BACKENDS.index(name) + 11}", weight) for name, weight in weights.items()}


def instance_directory(lab_name):
    return Path("/dev/shm") / lab_name


def pins_directory(lab_name):
    """As instance_name() in src/segment.h says."""
    return Path("/sys/fs/bpf/sluice") / str(instance_directory(lab_name)).strip("/").replace("/", "+").replace(".", "_")


def remove_instance(lab_name):
    """Shared memory and pinned maps; the processes must have ended."""
    shutil.rmtree(instance_directory(lab_name), ignore_errors=True)
    pins = pins_directory(lab_name)
    shutil.rmtree(pins, ignore_errors=True)
    if pins.parent.is_dir() and not any(pins.parent.iterdir()):
        pins.parent.rmdir()


class Balancer:
    def __init__(self, fabric, config):
        self.fabric = fabric
        self.host = fabric.hosts["lb"]
        self.directory = instance_directory(fabric.name)
        self.state = fabric.folder / "state"
        self.config_path = fabric.folder / "sluice.toml"
        self.write_config(config)
        self.dataplane = self.sluiced = None
        fabric.on_close(lambda: remove_instance(fabric.name))

    def write_config(self, text):
        self.config_path.write_text(text)

    # ---- Processes ---------------------------------------------------------------------------------------------------

    def dataplane_command(self, *more):
        worker_core = os.cpu_count() - 1
        huge = ["--no-huge"] if os.environ.get("SLUICE_NO_HUGE") else []
        return [program("dataplane/sluice-dataplane"), "--dir", self.directory, "--interface", "eth0",
                "--cores", worker_core, *huge, *more]

    def start_dataplane(self, *more, **options):
        # All CPUs: it pins its worker itself.
        self.dataplane = self.host.start("dataplane", self.dataplane_command(*more), cpus=range(os.cpu_count()), **options)
        return self.dataplane

    def start_sluiced(self, *more, **options):
        self.sluiced = self.host.start("sluiced", [program("controlplane/sluiced"), self.config_path,
                                                   "--dir", self.directory, "--state", self.state, *more], **options)
        return self.sluiced

    def start(self):
        self.start_dataplane()
        self.start_sluiced()
        self.wait_ready()
        return self

    def wait_answering(self, timeout_s=15.0):
        def answers():
            self.sluiced.expect_running()
            return self.cli("show", "services", check=False).returncode == 0
        wait_until(answers, lambda: f"sluiced answers\n{self.sluiced.output()[-1000:]}", timeout_s)

    def wait_ready(self, timeout_s=20.0):
        """Until the workers forward, and all backends take new flows."""
        self.wait_answering(timeout_s)

        def ready():
            self.dataplane.expect_running()
            backends = self.backends()
            return backends and all(b["takes_new_flows"] or b["sorry"] for b in backends.values()) and self.workers_current()
        wait_until(ready, lambda: f"all backends are up\n{self.cli('show', 'backends').stdout}"
                                  f"{self.dataplane.output()[-500:]}", timeout_s)

    # ---- CLI -----------------------------------------------------------------------------------------------------------

    def cli(self, *arguments, **options):
        return self.host.run(program("controlplane/sluice"), "--dir", self.directory, *arguments, **options)

    def show(self, *what):
        """The answer of `sluice --json ...`, as a dict."""
        result = self.cli("--json", *what)
        try:
            return json.loads(result.stdout)
        except ValueError as error:
            raise LabError(f"sluice --json {' '.join(what)}: no JSON: {result.stdout[:200]}") from error

    def backends(self):
        """{(service, backend): what `show backends` says}."""
        return {(b["service"], b["name"]): b for b in self.show("show", "backends")["backends"]}

    def backend(self, service_name, name):
        return self.backends()[service_name, name]

    def services(self):
        return {s["name"]: s for s in self.show("show", "services")["services"]}

    def dataplane_report(self):
        return self.show("show", "dataplane")

    def workers_current(self):
        """Has every running worker acknowledged the current generation?"""
        report = self.dataplane_report()
        workers = [w for w in report["dataplane"].get("workers", []) if w["active"]]
        return bool(workers) and all(w["acknowledged"] >= report["control"]["generation"] for w in workers)

    def change(self, *arguments):
        """A command that changes something; returns its answer (generation, ack_us, ...)."""
        return self.show(*arguments)

    def reasons(self):
        """{reason: packets}, of all that were not forwarded."""
        return {r["name"]: r["packets"] for r in self.dataplane_report()["dataplane"]["reasons"]}

    def accounting(self):
        return self.dataplane_report()["dataplane"]["accounting"]

    def steering(self):
        """The steering program's counters {redirected, passed, dropped_no_socket}, summed over CPUs."""
        path = pins_directory(self.fabric.name) / "sluice_steer_stats"
        entries = json.loads(run(["bpftool", "-j", "map", "dump", "pinned", path]).stdout)
        names = ("redirected", "passed", "dropped_no_socket")
        return {name: sum(value["value"] for value in entry["formatted"]["values"])
                for name, entry in zip(names, entries)}
