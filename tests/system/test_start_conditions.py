"""Starts that cannot work end at once, with one line that says what is wrong and one with the command that mends it."""

import os
import re
import struct
from pathlib import Path

import pytest

from fabric import VIPS4, program
from lab import run, wait_until
from sluice import on_fabric, pins_directory, service
from traffic import curl_once

WEB = VIPS4[0]
CONFIG = service("web", WEB, "ipip", on_fabric())
ABI_VERSION_OFFSET = 8  # src/segment.h: SegmentHeader::abi_version


def expect_refusal(result, *mentioned):
    """Failed, and said so in a line of its own name and a remedy; nothing else, no DPDK chatter among it."""
    assert result.returncode not in (0, 2), result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2, result.stderr
    assert lines[0].startswith(("sluice-dataplane: ", "sluiced: ", "sluice: ")), result.stderr
    assert lines[1].startswith("  try: ") and len(lines[1]) > len("  try: "), result.stderr
    for word in mentioned:
        assert word in result.stderr, result.stderr


def dataplane(balancer, prefix=(), command=None):
    # The laboratory keeps to core 0; the worker's core must be allowed.
    all_cores = ["taskset", "-c", f"0-{os.cpu_count() - 1}"]
    return balancer.host.run(*all_cores, *prefix, *(command or balancer.dataplane_command()), check=False, timeout=30)


def sluiced(balancer):
    return balancer.host.run(program("controlplane/sluiced"), balancer.config_path, "--dir", balancer.directory,
                             "--state", balancer.state, check=False, timeout=30)


def test_second_sluiced(balancer):
    expect_refusal(sluiced(balancer), str(balancer.sluiced.pid), "--dir")
    assert balancer.sluiced.running()


def test_second_data_plane(balancer):
    expect_refusal(dataplane(balancer), str(balancer.dataplane.pid), "--dir")
    assert balancer.dataplane.running()
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200


def test_unknown_interface(idle_balancer):
    command = [part if part != "eth0" else "eth7" for part in idle_balancer.dataplane_command()]
    expect_refusal(dataplane(idle_balancer, command=command), "eth7", "ip -brief link")


def test_interface_with_a_program_of_somebody_else(idle_balancer):
    idle_balancer.host.run(program("bpf/sluice-decap"), "attach", "eth0")
    expect_refusal(dataplane(idle_balancer), "sluice_decap", "ip link set dev eth0 xdp off")
    assert "attached" in idle_balancer.host.run(program("bpf/sluice-decap"), "status", "eth0").stdout


@pytest.mark.parametrize("capability", ["net_admin", "net_raw", "sys_admin"])
def test_missing_capability(idle_balancer, capability):
    prefix = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"]
    expect_refusal(dataplane(idle_balancer, prefix=prefix), f"CAP_{capability.upper()}", "sudo")


def in_private_mounts(script):
    """A shell that changes mounts only for itself and then becomes the program."""
    return ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh"]


def test_no_hugepages(idle_balancer):
    # What the kernel says on a machine without; nothing of this machine's is touched.
    meminfo = idle_balancer.fabric.folder / "meminfo"
    meminfo.write_text(re.sub(r"(HugePages_\w+:\s+)\d+", r"\g<1>0", Path("/proc/meminfo").read_text()))
    prefix = in_private_mounts(f"mount --bind {meminfo} /proc/meminfo")
    command = [part for part in idle_balancer.dataplane_command() if part != "--no-huge"]
    expect_refusal(dataplane(idle_balancer, prefix, command), "hugepages", "nr_hugepages", "--no-huge")


def test_no_bpffs(idle_balancer):
    prefix = in_private_mounts("umount --lazy /sys/fs/bpf")
    expect_refusal(dataplane(idle_balancer, prefix=prefix), "/sys/fs/bpf", "mount -t bpf")


def expect_steering_refusal(result, *mentioned):
    """As expect_refusal, below what libbpf and DPDK say of the program."""
    assert result.returncode not in (0, 2), result.stdout + result.stderr
    *_, refusal, remedy = result.stderr.strip().splitlines()
    assert refusal.startswith("sluice-dataplane: ") and remedy.startswith("  try: "), result.stderr
    for word in mentioned:
        assert word in refusal + remedy, result.stderr


def expect_no_program(balancer):
    assert "prog/xdp" not in run(["ip", "-n", balancer.host.netns, "link", "show", "eth0"]).stdout


def test_no_steering_program(idle_balancer):
    command = [*idle_balancer.dataplane_command(), "--steer", "/nowhere/steer.o"]
    expect_refusal(dataplane(idle_balancer, command=command), "/nowhere/steer.o", "--steer")


def test_steering_program_that_cannot_be_loaded(idle_balancer):
    """Whatever is wrong with it: no port, nothing on the NIC, and the next start with the right one works."""
    balancer = idle_balancer
    damaged = balancer.fabric.folder / "damaged.o"
    damaged.write_bytes(program("bpf/steer.bpf.o").read_bytes()[:700])
    for wrong in (damaged, program("bpf/check.bpf.o")):
        expect_steering_refusal(dataplane(balancer, command=[*balancer.dataplane_command(), "--steer", wrong]), "eth0")
        expect_no_program(balancer)
    balancer.start()
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200


def test_steering_map_of_another_version(idle_balancer):
    """The pinned map that both sides would use has another layout: both name it and say what to do; sluiced goes on, and
    steers when the map is gone."""
    balancer = idle_balancer
    path = pins_directory(balancer.fabric.name) / "sluice_vips"
    path.parent.mkdir(parents=True)
    run(["bpftool", "map", "create", path, "type", "hash", "key", "8", "value", "4", "entries", "16", "name", "sluice_vips"])
    expect_refusal(dataplane(balancer), f"{path} is the map of another version", f"sudo rm {path}")
    expect_no_program(balancer)
    balancer.start_sluiced()
    balancer.wait_answering()
    expect_steering_failed(balancer, f"{path} is the map of another version", f"sudo rm {path}")
    path.unlink()
    expect_steering_works(balancer)
    balancer.start_dataplane()
    balancer.wait_ready()
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200


def expect_steering_failed(balancer, *mentioned):
    (event,) = balancer.show("show", "events", "--kind", "steering_*")["events"]
    assert (event["kind"], event["level"]) == ("steering_failed", "warning")
    steering = balancer.dataplane_report()["control"]["steering"]
    assert not steering["on"] and steering["fault"]
    for word in mentioned:
        assert word in event["text"] and word in steering["fault"], (event, steering)


def expect_steering_works(balancer):
    wait_until(lambda: balancer.dataplane_report()["control"]["steering"]["on"], "the steering map is there")
    kinds = [e["kind"] for e in balancer.show("show", "events", "--kind", "steering_*")["events"]]
    assert kinds == ["steering_failed", "steering_works"]
    assert balancer.dataplane_report()["control"]["steering"]["keys"] == 2


def test_sluiced_without_bpffs(idle_balancer):
    """It serves: the CLI answers and checks go on; it says what is missing, and mends it when it is there."""
    balancer = idle_balancer
    prefix = in_private_mounts("umount --lazy /sys/fs/bpf")
    command = [*prefix, program("controlplane/sluiced"), balancer.config_path, "--dir", balancer.directory]
    balancer.sluiced = balancer.host.start("sluiced", [*command, "--state", balancer.state])
    balancer.wait_answering()
    expect_steering_failed(balancer, "no bpffs at /sys/fs/bpf", "mount -t bpf")
    wait_until(lambda: all(b["health"] == "up" for b in balancer.backends().values()), "checks go on")
    balancer.change("backend", "weight", "web/b1", "50")
    assert balancer.backend("web", "b1")["weight"] == 50
    run(["nsenter", f"--mount=/proc/{balancer.sluiced.pid}/ns/mnt", "mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])
    expect_steering_works(balancer)


@pytest.mark.skipif(Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0",
                    reason="this kernel lets everybody make maps")
def test_sluiced_that_may_not_load_bpf(idle_balancer):
    """Steering and checks of VIPs need it: both are named, those checks say why they are none, the others go on."""
    balancer = idle_balancer
    on_vip = '{ type = "tcp", to = "vip", interval = "200ms" }'
    balancer.write_config(CONFIG + service("own", VIPS4[1], "ipip", on_fabric(), health=on_vip))
    prefix = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"]
    command = [*prefix, program("controlplane/sluiced"), balancer.config_path, "--dir", balancer.directory]
    balancer.sluiced = balancer.host.start("sluiced", [*command, "--state", balancer.state])
    balancer.wait_answering()
    expect_steering_failed(balancer, "CAP_BPF")
    (event,) = wait_until(lambda: balancer.show("show", "events", "--kind", "vip_checks_*")["events"], "it is told")
    assert (event["kind"], event["level"]) == ("vip_checks_failed", "warning") and "not permitted" in event["text"], event
    wait_until(lambda: all(b["health"] == "up" for (of, _), b in balancer.backends().items() if of == "web"), "checks go on")
    for name in on_fabric():
        backend = balancer.backend("own", name)
        assert "not permitted" in backend["check"]["impossible"] and backend["health"] != "up", backend


@pytest.mark.parametrize("segment", ["stats", "flows", "tables"])
def test_shared_memory_of_another_version(fresh_balancer, segment):
    balancer = fresh_balancer
    balancer.sluiced.stop()
    balancer.dataplane.stop()
    with open(balancer.directory / segment, "r+b") as file:
        file.seek(ABI_VERSION_OFFSET)
        (version,) = struct.unpack("<I", file.read(4))
        file.seek(ABI_VERSION_OFFSET)
        file.write(struct.pack("<I", version + 7))
    refused = sluiced(balancer) if segment == "tables" else dataplane(balancer)
    expect_refusal(refused, segment, f"version {version + 7}")


def test_the_other_side_tells_of_shared_memory_of_another_version(fresh_balancer):
    """A data plane of another version does not stop sluiced: it says so, and goes on when the right one comes."""
    balancer = fresh_balancer
    balancer.dataplane.stop()
    with open(balancer.directory / "stats", "r+b") as file:
        file.seek(ABI_VERSION_OFFSET)
        file.write(struct.pack("<I", 77))
    balancer.sluiced.stop()
    balancer.start_sluiced()
    balancer.wait_answering()
    assert "77" in balancer.dataplane_report()["dataplane"]["fault"]
    (balancer.directory / "stats").unlink()
    balancer.start_dataplane()
    balancer.wait_ready()
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200


def test_configuration_with_errors(idle_balancer):
    idle_balancer.write_config(CONFIG.replace("weight = 100", "wieght = 100", 1).replace('forward = "ipip"', 'forward = "x"'))
    result = sluiced(idle_balancer)
    assert result.returncode == 4
    # Both, each with its place: FILE:LINE:COLUMN.
    for word in ("wieght", "did you mean 'weight'", "forward", f"{idle_balancer.config_path}:"):
        assert word in result.stderr, result.stderr


def test_configuration_file_missing(idle_balancer):
    idle_balancer.config_path.unlink()
    result = sluiced(idle_balancer)
    assert result.returncode == 3
    assert str(idle_balancer.config_path) in result.stderr


def test_a_reload_with_errors_changes_nothing(balancer):
    before = balancer.services()
    balancer.write_config(CONFIG.replace("port = 80", 'port = "eighty"', 1))
    result = balancer.cli("reload", check=False)
    assert result.returncode == 4
    assert f"{balancer.config_path}:" in result.stderr
    assert balancer.services()["web"]["table_checksum"] == before["web"]["table_checksum"]
    assert curl_once(balancer.fabric.hosts["c1"], WEB)[0] == 200
    balancer.write_config(CONFIG)


def test_the_cli_without_a_daemon(idle_balancer):
    result = idle_balancer.cli("show", "backends", check=False)
    assert result.returncode == 5
    expect_refusal(result, str(idle_balancer.directory))


def test_nothing_is_left_behind_after_an_orderly_end(fresh_balancer):
    """The NIC is the kernel's again: no program on it."""
    balancer = fresh_balancer
    balancer.sluiced.stop()
    assert balancer.dataplane.stop() == 0
    wait_until(lambda: "prog/xdp" not in run(["ip", "-n", balancer.host.netns, "link", "show", "eth0"]).stdout,
               "the steering program is off the NIC")
    assert Path(balancer.directory / "tables").exists(), "the tables stay for the next start"
