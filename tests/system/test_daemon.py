"""sluiced and sluice without a data plane: real backends, real checks, real netlink, in two namespaces of the test's own.

What the daemon publishes is read back through the CLI, which reads the published tables. Waiting for workers is tested in
tests/unit/rollout_test.cc, with a real data plane in the other files of this folder.
"""

import concurrent.futures
import json
import os
import signal
import socket

import pytest

from fabric import program
from lab import Lab, Process, run, lab_name_of_test, wait_until
from sluice import pins_directory

NAME = lab_name_of_test()
DIRECTORY = f"/dev/shm/{NAME}"
PINS = pins_directory(NAME)
STATE = f"{DIRECTORY}/state"
CHECK = '{ type = "http", path = "/", interval = "100ms", timeout = "80ms", rise = 2, fall = 2 }'
BACKENDS = {"b1": "10.0.1.11", "b2": "10.0.1.12", "b3": "10.0.1.13"}

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((sys.argv[1], 80), Handler).serve_forever()
"""


def config(backends=None, extra=""):
    backends = backends or dict.fromkeys(BACKENDS, 100)
    text = f"""
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
forward = "ipip"
health = {CHECK}
"""
    for name, weight in backends.items():
        text += f'  [[service.backend]]\n  name = "{name}"\n  address = "{BACKENDS[name]}"\n  weight = {weight}\n'
    return text + extra


SECOND_SERVICE = """
[[service]]
name = "dns"
vip = "203.0.113.53"
port = 53
protocol = "udp"
forward = "l2dsr"
health = { type = "none" }
  [[service.backend]]
  name = "b1"
  address = "10.0.1.11"
"""


class Control:
    """One sluiced with its configuration, and the CLI to it."""

    def __init__(self, lab):
        self.lab = lab
        self.balancer = lab.hosts["lb"]
        self.config_path = lab.folder / "sluice.toml"
        self.config_path.write_text(config())
        self.servers = {}
        self.sluiced = None

    def serve(self, name):
        self.servers[name] = self.lab.hosts["backends"].start(
            f"http-{name}", ["/usr/bin/python3", "-c", SERVER, BACKENDS[name]])

    def start(self):
        self.sluiced = self.balancer.start("sluiced", [program("controlplane/sluiced"), self.config_path, "--dir", DIRECTORY,
                                                       "--state", STATE])
        wait_until(self.answers, lambda: f"sluiced answers\n{self.sluiced.output()}", poll_s=0.02)

    def answers(self):
        self.sluiced.expect_running()
        return self.cli("show", "services", check=False).returncode == 0

    def cli(self, *arguments, **options):
        return self.balancer.run(program("controlplane/sluice"), "--dir", DIRECTORY, *arguments, **options)

    def json(self, *arguments):
        return json.loads(self.cli("--json", *arguments).stdout)

    def backend(self, name):
        return {b["name"]: b for b in self.json("show", "backends", "web")["backends"]}[name]

    def generation(self):
        return self.json("show", "dataplane")["control"]["generation"]

    def wait_up(self):
        wait_until(lambda: all(self.backend(name)["takes_new_flows"] for name in BACKENDS),
                   lambda: self.cli("show", "backends").stdout + self.sluiced.output()[-1000:])

    def wait_health(self, name, health):
        wait_until(lambda: self.backend(name)["health"] == health, lambda: f"{name} {health}: {self.backend(name)}")

    def vip_keys(self):
        """The steering map: {(address, port, protocol)}."""
        keys = set()
        for entry in json.loads(run(["bpftool", "-j", "map", "dump", "pinned", f"{PINS}/sluice_vips"]).stdout):
            raw = bytes(int(byte, 16) for byte in entry["key"])
            keys.add((".".join(map(str, raw[12:16])), int.from_bytes(raw[16:18], "big"), raw[18]))
        return keys


def remove_instance():
    run(["rm", "-rf", DIRECTORY, PINS])


@pytest.fixture
def control():
    remove_instance()
    with Lab(NAME) as lab:
        lab.on_close(remove_instance)
        balancer, backends = lab.add_host("lb"), lab.add_host("backends")
        lab.link(balancer, "eth0", backends, "eth0")
        balancer.ip("addr add 10.0.1.1/24 dev eth0", "link set eth0 up")
        backends.ip(*(f"addr add {address}/24 dev eth0" for address in BACKENDS.values()), "link set eth0 up")
        made = Control(lab)
        for name in BACKENDS:
            made.serve(name)
        made.start()
        made.wait_up()
        yield made


def test_equal_weights_share_equally_and_next_hops_are_resolved(control):
    mac = control.lab.hosts["backends"].mac()
    for name, address in BACKENDS.items():
        backend = control.backend(name)
        assert abs(backend["share_percent"] - 100 / 3) < 0.01
        assert backend["address"] == address
        assert backend["next_hop"]["resolved"] and backend["next_hop"]["mac"] == mac
        assert backend["check"]["result"] == "L7OK"


def test_drain_ready_maint_and_weight(control):
    control.cli("backend", "drain", "web/b1")
    assert control.backend("b1")["admin"] == "drain" and control.backend("b1")["slots"] == 0
    assert "draining" in control.backend("b1")["why_not"]
    assert control.backend("b1")["health"] == "up", "admin state and health are two things"

    before = control.generation()
    again = control.json("backend", "drain", "web/b1")
    assert not again["changed"] and again["generation"] == before

    control.cli("backend", "ready", "web/b1")
    assert control.backend("b1")["slots"] > 0
    control.cli("backend", "weight", "web/b2", "50")
    slots = {name: control.backend(name)["slots"] for name in BACKENDS}
    assert abs(slots["b2"] * 2 - slots["b1"]) <= 2 and abs(slots["b1"] - slots["b3"]) <= 1
    control.cli("backend", "weight", "web/b2", "0")
    assert control.backend("b2")["slots"] == 0 and control.backend("b2")["why_not"] == "weight 0"

    control.cli("backend", "maint", "web/b3")
    b3 = control.backend("b3")
    assert b3["admin"] == "maint" and b3["health"] == "unknown" and b3["slots"] == 0
    control.cli("backend", "ready", "web/b3")
    wait_until(lambda: control.backend("b3")["takes_new_flows"], "b3 is checked and back")


def test_a_backend_that_fails_is_taken_out_and_comes_back(control):
    control.servers["b2"].kill()
    control.wait_health("b2", "down")
    b2 = control.backend("b2")
    assert b2["slots"] == 0 and b2["check"]["result"] == "L4CON" and "Connection refused" in b2["check"]["detail"]
    control.serve("b2")
    control.wait_health("b2", "up")
    assert control.backend("b2")["slots"] > 0


def test_after_sigkill_nothing_is_forgotten(control):
    control.cli("backend", "drain", "web/b1")
    control.cli("backend", "weight", "web/b2", "30")
    control.servers["b3"].kill()
    control.wait_health("b3", "down")
    generation = control.generation()
    checksum = control.json("show", "services")["services"][0]["table_checksum"]

    control.sluiced.kill()
    dead = control.cli("show", "services", check=False)
    assert dead.returncode == 5 and "sluiced" in dead.stderr
    control.start()
    assert control.generation() == generation, "the same tables: nothing to publish"
    assert control.json("show", "services")["services"][0]["table_checksum"] == checksum
    assert control.backend("b1")["admin"] == "drain"
    assert control.backend("b2")["weight"] == 30 and control.backend("b2")["weight_configured"] == 100
    assert control.backend("b3")["health"] == "down"


def test_backends_that_cannot_be_checked_at_a_restart_keep_their_health(control):
    control.sluiced.kill()
    for server in control.servers.values():
        server.signal(signal.SIGSTOP)  # connects go through, answers do not come: no verdict before the timeout
    control.start()
    assert control.backend("b1")["takes_new_flows"], "what was up stays up until `fall` checks say otherwise"
    for server in control.servers.values():
        server.signal(signal.SIGCONT)
    control.wait_up()


@pytest.mark.parametrize("how", ["command", "signal"])
def test_reload_takes_over_a_good_file(control, how):
    control.cli("backend", "drain", "web/b1")
    control.cli("backend", "weight", "web/b2", "30")
    control.config_path.write_text(config({"b1": 100, "b2": 70}, SECOND_SERVICE))
    if how == "command":
        assert "2 services" in control.cli("reload").stdout
    else:
        control.sluiced.signal(signal.SIGHUP)
    wait_until(lambda: len(control.json("show", "services")["services"]) == 2, "the second service")
    assert {b["name"] for b in control.json("show", "backends", "web")["backends"]} == {"b1", "b2"}
    assert control.backend("b1")["admin"] == "drain"
    assert control.backend("b2")["weight"] == 70, "the file says another weight than before: that is newer"
    assert control.backend("b2")["health"] == "up"


@pytest.mark.parametrize("text, code", [("[[service]\n", 3), (config(extra='wieght = 3\n'), 4), (None, 3)])
def test_a_bad_file_changes_nothing(control, text, code):
    before = (control.generation(), control.json("show", "services")["services"])
    if text is None:
        control.config_path.unlink()
    else:
        control.config_path.write_text(text)
    refused = control.cli("reload", check=False)
    assert refused.returncode == code, refused.stderr
    assert str(control.config_path) in refused.stderr and "old configuration stays" in refused.stderr
    control.sluiced.signal(signal.SIGHUP)
    wait_until(lambda: control.sluiced.output().count("not taken over") == 2, "the signal's reload is refused")
    control.sluiced.expect_running()
    services = control.json("show", "services")["services"]
    assert (control.generation(), services) == before
    assert control.backend("b1")["takes_new_flows"]

    checked = control.cli("check", control.config_path, check=False)
    assert checked.returncode == code and checked.stdout == ""


def test_the_steering_map_follows_the_configuration(control):
    web, dns = ("203.0.113.10", 80, 6), ("203.0.113.53", 53, 17)
    any_of = lambda key: (key[0], 0, 0)
    wait_until(lambda: control.vip_keys() == {web, any_of(web)}, control.vip_keys)
    control.config_path.write_text(config(extra=SECOND_SERVICE))
    control.cli("reload")
    wait_until(lambda: control.vip_keys() == {web, any_of(web), dns, any_of(dns)}, control.vip_keys)
    control.config_path.write_text(config())
    control.cli("reload")
    wait_until(lambda: control.vip_keys() == {web, any_of(web)}, control.vip_keys)
    control.sluiced.kill()
    assert control.vip_keys() == {web, any_of(web)}, "steering outlives the daemon"


def test_explain_names_the_backend_and_the_reasons(control):
    # The lookup table says who gets it; with all others out it can be only one.
    control.cli("backend", "drain", "web/b1")
    control.cli("backend", "weight", "web/b2", "0")
    answer = control.json("explain", "tcp", "198.51.100.7:40000", "203.0.113.10:80")
    assert (answer["verdict"], answer["service"], answer["backend"]) == ("forward", "web", "b3")
    assert answer["next_hop"]["resolved"]
    why = "\n".join(answer["why"])
    assert "b1 takes no new flows: draining" in why and "b2 takes no new flows: weight 0" in why

    control.cli("backend", "maint", "web/b3")
    nobody = control.json("explain", "tcp", "198.51.100.7:40000", "203.0.113.10:80")
    assert (nobody["verdict"], nobody["reason"]) == ("drop", "no_backend")
    other = control.json("explain", "tcp", "198.51.100.7:40000", "203.0.113.10:81")
    assert (other["verdict"], other["reason"]) == ("pass", "no_service")
    for wrong in (["icmp", "1.1.1.1:1", "2.2.2.2:2"], ["tcp", "1.1.1.1", "2.2.2.2:2"], ["tcp", "1.1.1.1:1", "[::1]:2"],
                  ["tcp", "1.1.1.1:99999", "2.2.2.2:2"]):
        assert control.cli("explain", *wrong, check=False).returncode == 2, wrong


def test_wrong_commands_get_a_clear_answer(control):
    for arguments, code, says in (
            (["backend", "drain", "web/b9"], 1, "no backend 'b9' in service 'web'"),
            (["backend", "drain", "wbe/b1"], 1, "did you mean 'web'?"),
            (["backend", "drain", "web"], 2, "is not SERVICE/BACKEND"),
            (["backend", "weight", "web/b1", "10001"], 2, "weight 10001 is out of range"),
            (["backend", "weight", "web/b1", "-1"], 2, "out of range"),
            (["backend", "weight", "web/b1", "many"], 2, "is not a whole number"),
            (["show", "backends", "web2"], 1, "did you mean 'web'?"),
            (["show", "backends", "web/b9"], 1, "no backend 'b9' in service 'web'"),
            (["show", "backend"], 2, "did you mean 'backends'?"),
            (["show", "events", "--last", "-1"], 2, "not in range"),
            (["overrides", "clear", ""], 2, "the name is empty"),
            (["service", "add", "/nowhere"], 3, "No such file"),
            ([], 2, "no command was given"),
            (["nonsense"], 2, "there is no command 'nonsense'")):
        result = control.cli(*arguments, check=False)
        assert result.returncode == code and says in result.stderr and result.stdout == "", (arguments, result)


def ask(requests):
    """The answers to these, on a connection of their own."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{DIRECTORY}/control.sock")
        connection.sendall(b"".join(json.dumps({"v": 1} | request).encode() + b"\n" for request in requests))
        with connection.makefile() as answers:
            return [json.loads(answers.readline()) for _ in requests]


def test_an_argument_of_a_wrong_type_is_not_taken_for_absent(control):
    control.cli("backend", "weight", "web/b1", "7")
    wrong = [{"cmd": "overrides.clear", "target": ["web/b2"]}, {"cmd": "backend.weight", "backend": 1, "weight": 1},
             {"cmd": "config.apply", "dry_run": "yes", "sources": [{"file": "x.toml", "text": config({"b2": 1})}]}]
    assert [answer["code"] for answer in ask(wrong)] == ["bad_request"] * 3
    assert control.backend("b1")["weight"] == 7


def test_a_client_fills_no_memory_and_writes_no_lines_of_its_own_into_the_log(control):
    long = {"cmd": "backend.weight", "service": "w" * 8_000_000, "backend": "b1", "weight": 1}
    assert [ask([request])[0]["ok"] for request in (long, long | {"cmd": "x" * 8_000_000})] == [False, False]
    assert all(len(event["text"]) < 4096 for event in control.json("show", "events")["events"])
    ask([{"cmd": "backend.weight", "service": "web", "backend": "b1\nforged", "weight": 1}])
    wait_until(lambda: "b1?forged" in control.sluiced.output(), control.sluiced.output, 5)
    assert "\nforged" not in control.sluiced.output()


def test_one_name_is_added_once(control):
    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda i: ask([{"cmd": "backend.add", "service": "web", "backend": "new",
                                                   "address": f"10.0.1.{100 + i}"}])[0], range(16)))
    added = [i for i, answer in enumerate(answers) if answer["ok"]]
    assert len(added) == 1, answers
    assert control.backend("new")["address"] == f"10.0.1.{100 + added[0]}"
    assert all("already" in answer["error"] for answer in answers if not answer["ok"])


def test_a_second_daemon_is_refused_in_one_line_with_the_remedy(control):
    second = control.balancer.run(program("controlplane/sluiced"), control.config_path, "--dir", DIRECTORY,
                                  "--state", STATE, check=False)
    assert second.returncode == 1
    assert f"pid {control.sluiced.pid}" in second.stderr and "try: kill" in second.stderr
    assert control.answers()


def test_an_orderly_end_leaves_the_tables(control):
    control.cli("backend", "weight", "web/b1", "10")
    generation = control.generation()
    assert control.sluiced.stop() == 0
    assert os.path.exists(f"{DIRECTORY}/tables") and not os.path.exists(f"{DIRECTORY}/control.sock")
    control.start()
    assert control.generation() == generation and control.backend("b1")["weight"] == 10


def test_dozens_of_clients_at_once_all_get_through(control):
    commands = [control.balancer.enter([program("controlplane/sluice"), "--dir", DIRECTORY, "--json", "backend", "weight",
                                        f"web/b{1 + i % 3}", 1 + i]) for i in range(48)]
    clients = [Process(f"client{i}", command, control.lab.folder / f"client{i}.log")
               for i, command in enumerate(commands)]
    assert [client.wait() for client in clients] == [0] * len(clients)
    answers = [json.loads(client.output()) for client in clients]
    assert all(answer["ok"] for answer in answers)
    assert control.generation() >= max(answer["generation"] for answer in answers)
    assert 1 <= control.backend("b1")["weight"] <= 48
