"""How the world talks to sluiced: roles, many clients at once, events, hooks, HTTP; without a data plane, as in
test_daemon.py."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time

import pytest

from fabric import program
from lab import run, wait_until
from test_daemon import DIRECTORY, STATE, SECOND_SERVICE, config, control  # noqa: F401 (a fixture)

SOCKET = f"{DIRECTORY}/control.sock"
HTTP = "127.0.0.1:9095"


class Connection:
    """To the control socket, which is no part of any network namespace."""

    def __init__(self, path=SOCKET):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def send(self, **request):
        self.socket.sendall(json.dumps({"v": 1, **request}).encode() + b"\n")

    def receive(self):
        return json.loads(self.lines.readline())

    def ask(self, **request):
        self.send(**request)
        return self.receive()

    def close(self):
        self.lines.close()
        self.socket.close()


def reconfigure(control, text):
    control.config_path.write_text(text)
    control.cli("reload")


def as_user(control, uid, groups, *arguments):
    """The CLI, as another user."""
    command = ["setpriv", f"--reuid={uid}", "--regid=65534", f"--groups={groups}" if groups else "--clear-groups",
               program("controlplane/sluice"), "--dir", DIRECTORY, *map(str, arguments)]
    return run(command, check=False)


def test_groups_give_roles_and_a_refusal_says_how_to_get_one(control):
    closed = as_user(control, 60000, "", "show", "services")
    assert closed.returncode == 5 and "sudo" in closed.stderr

    reconfigure(control, '[control]\nadmin_group = "60001"\nread_group = "60002"\n' + config())
    assert as_user(control, 60000, "60002", "show", "services").returncode == 0
    refused = as_user(control, 60000, "60002", "backend", "drain", "web/b1")
    assert refused.returncode == 1 and "role read; this needs admin" in refused.stderr
    assert "60001" in refused.stderr and "admin_group" in refused.stderr
    assert control.backend("b1")["admin"] == "ready"
    stranger = as_user(control, 60000, "", "show", "services")
    assert stranger.returncode == 1 and "role none" in stranger.stderr and "60002" in stranger.stderr

    assert as_user(control, 60000, "60001", "backend", "drain", "web/b1").returncode == 0
    assert control.backend("b1")["admin"] == "drain"
    audits = control.json("show", "events", "--kind", "audit")["events"]
    done = [a for a in audits if a["details"]["uid"] == 60000]
    assert [a["details"]["ok"] for a in done] == [False, True]
    assert done[1]["details"]["command"] == "backend.admin" and done[1]["service"] == "web"
    assert (done[1]["details"]["before"], done[1]["details"]["after"]) == ("ready", "drain")

    reconfigure(control, config())
    assert as_user(control, 60000, "60001", "show", "services").returncode == 5, "nobody has a role any more"


def test_200_clients_of_100_updates_each_lose_nothing(control):
    """Each update is acknowledged or refused with a reason; what is left is what a serial run leaves."""
    clients, updates = 200, 100
    control.config_path.write_text(config() + many_backends(clients))
    control.cli("reload")
    outcomes, faults = [None] * clients, []

    def client(number):
        try:
            connection = Connection()
            answers = []
            for update in range(updates):
                # Each third one is wrong: it must be refused, and leave nothing.
                weight = 20_000 + update if update % 3 == 2 else 1 + (number * 7 + update) % 1000
                answers.append((weight, connection.ask(cmd="backend.weight", service="many", backend=f"n{number}",
                                                       weight=weight)))
            connection.close()
            outcomes[number] = answers
        except Exception as fault:  # pylint: disable=broad-except
            faults.append(f"client {number}: {fault!r}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[:3]
    expected = {}
    for number, answers in enumerate(outcomes):
        assert len(answers) == updates
        for weight, answer in answers:
            if weight >= 20_000:
                assert not answer["ok"] and "out of range" in answer["error"], answer
            else:
                assert answer["ok"] and answer["acknowledged"], answer
                expected[f"n{number}"] = weight
    weights = {b["name"]: b["weight"] for b in control.json("show", "backends", "many")["backends"]}
    assert weights == expected


def many_backends(count):
    text = """
[[service]]
name = "many"
vip = "203.0.113.99"
port = 80
protocol = "tcp"
forward = "ipip"
health = { type = "none" }
"""
    for number in range(count):
        text += f'  [[service.backend]]\n  name = "n{number}"\n  address = "10.0.2.{number + 1}"\n'
    return text


def test_clients_that_say_nothing_cost_nobody_anything(control):
    silent = [Connection() for _ in range(600)]
    for connection in silent[::2]:
        try:
            connection.socket.sendall(b'{"v":1,"cmd":')
        except OSError:
            pass  # its place was given to another
    time.sleep(1.1)
    assert control.cli("show", "services").returncode == 0
    for connection in silent:
        connection.close()


def test_watch_tells_checks_changes_and_generations(control):
    watcher = Connection()
    watcher.send(cmd="watch")
    assert watcher.receive()["kind"] == "watching"
    control.cli("backend", "weight", "web/b2", "7")
    control.servers["b3"].kill()
    seen = {}
    while not {"check", "generation_published", "audit", "backend_down"} <= seen.keys():
        event = watcher.receive()
        seen.setdefault(event["kind"], event)
    assert seen["check"]["details"]["result"].startswith("L") and seen["check"]["service"] == "web"
    assert seen["backend_down"]["backend"] == "b3"
    assert seen["generation_published"]["details"]["generation"] > 0
    watcher.close()

    only = Connection()
    only.send(cmd="watch", kind="audit", service="web")
    only.receive()
    control.cli("backend", "weight", "web/b2", "8")
    assert only.receive()["details"]["after"] == 8
    only.close()
    kinds = {event["kind"] for event in control.json("show", "events")["events"]}
    assert {"started", "backend_down", "audit"} <= kinds and "check" not in kinds


def test_a_watcher_that_does_not_read_is_cut_off_and_told_what_it_missed(control):
    deaf = Connection()
    deaf.send(cmd="watch")
    busy = Connection()
    for number in range(5_000):  # some megabytes of events
        assert busy.ask(cmd="backend.weight", service="web", backend="b1", weight=1 + number % 2)["ok"]
    lines = 0
    while True:
        line = deaf.receive()
        if "ok" in line:
            break
        lines += 1
    assert not line["ok"] and line["code"] == "too_slow" and line["missed"] > 0 and lines > 1000
    assert deaf.ask(cmd="show.services")["ok"], "the connection goes on"
    deaf.close()
    busy.close()


def test_an_argument_of_another_type_or_name_is_refused_and_nothing_is_done(control):
    """It would be taken for absent, and mean something else: all of it, another one, at once."""
    generation = control.generation()
    connection = Connection()
    one = {"service": "web", "backend": "b1"}
    for command, arguments, words in (
            ("backend.admin", {**one, "admin": "maint", "targets": "web/b2"}, '"targets" is "web/b2"; it must be a list of texts'),
            ("backend.admin", {**one, "admin": "maint", "targets": {}}, '"targets" is {}'),
            ("backend.admin", {"admin": "maint", "targets": ["web/b1", 2]}, '"targets" is ["web/b1",2]'),
            ("backend.admin", {**one, "admin": 1}, '"admin" is 1; it must be text'),
            ("backend.admin", {**one, "admin": "drain", "reset_after_ms": "5m"}, "from 1ms to"),
            ("backend.weight", {**one, "weight": "0"}, 'weight "0" is out of range'),
            ("backend.weight", {**one, "weight": 0, "force": "no"}, '"force" is "no"; it must be true or false'),
            ("backend.add", {"service": "web", "backend": "b4", "address": ["10.0.1.14"]}, '"address" is ["10.0.1.14"]'),
            ("backend.remove", {"targets": None}, '"targets" is null'),
            ("service.enable", {"services": "web", "enabled": False}, '"services" (a list of names)'),
            ("service.enable", {"services": {"a": "web"}, "enabled": False}, '"services" (a list of names)'),
            ("service.enable", {"services": ["web", None], "enabled": False}, '"services" (a list of names)'),
            ("service.enable", {"services": ["web"], "enabled": 0}, '"enabled" is 0; it must be true or false'),
            ("service.add", {"definition": [1]}, '"definition" is [1]; it must be an object'),
            ("service.remove", {"service": ["web"]}, '"service" is ["web"]; it must be text'),
            ("overrides.clear", {"target": 1}, '"target" is 1'),
            ("config.apply", {"sources": "x"}, '"sources" is "x"; it must be a list'),
            ("config.apply", {"sources": [], "confirm_s": 1.5, "dry_run": 1}, '"dry_run" is 1'),
            ("session.show", {"pinned": "yes"}, '"pinned" is "yes"'),
            ("session.show", {"limit": "20"}, '"limit" is a whole number'),
            ("session.import", {"secret": 5, "services": {}, "backends": []}, '"secret" is 5; it must be text'),
            ("session.import", {"services": {}, "backends": []}, 'the request has no "secret" (text)'),
            ("session.import", {"secret": "x", "services": {}, "backends": [], "sessions": {}}, '"sessions" is {}; it must be a list'),
            ("session.import", {"secret": "x", "services": {}, "backends": [], "total": "9"}, '"total" is "9"; it must be a whole number'),
            ("session.import", {"secret": "x", "services": {"web": 1}, "backends": []}, '"services" no object of texts'),
            ("rebalance", {"service": "web", "reset": "yes"}, '"reset" is "yes"; it must be true or false'),
            ("rebalance", {"service": "web", "over_s": "3"}, '"over_s" is a whole number from 1 to 60'),
            ("session.import", {"dryrun": True, "secret": "x", "services": {}, "backends": []}, "did you mean 'dry_run'?"),
            ("rebalance", {"service": "web", "dry_run": True}, "rebalance takes no argument 'dry_run'"),
            ("overrides.clear", {"service": "web"}, "it takes: target"),
            ("reload", {"force": True}, "it takes none"),
            ("show.events", {"last": "1"}, '"last" is "1"; it must be a whole number'),
            ("show.events", {"kind": ["audit"]}, '"kind" is ["audit"]; it must be text'),
            ("watch", {"kind": 7}, '"kind" is 7'),
            ("show.flows", {"list": -1}, '"list" is -1; it must be a whole number'),
            ("explain", {"protocol": 6, "client": "198.51.100.2:1", "vip": "203.0.113.10:80"}, '"protocol" is 6; it must be text')):
        answer = connection.ask(cmd=command, **arguments)
        assert (answer["ok"], answer.get("code")) == (False, "bad_request") and words in answer["error"] + answer["remedy"], (
            command, arguments, answer)
    connection.close()
    assert control.generation() == generation and control.json("show", "overrides")["overrides"] == []


def test_a_hook_hears_of_a_failed_backend(control):
    out = control.lab.folder / "hook.out"
    script = f'read line; echo \\"$SLUICE_EVENT_KIND $SLUICE_SERVICE/$SLUICE_BACKEND\\" >> {out}'
    reconfigure(control, f'[[hook]]\ncommand = ["/bin/sh", "-c", "{script}"]\nevents = ["backend_*"]\n' + config())
    control.servers["b2"].kill()
    wait_until(lambda: out.exists() and out.read_text() == "backend_down web/b2\n", "the hook ran")


# ---- HTTP ------------------------------------------------------------------------------------------------------------


def get(control, path):
    """(status, content type, body), from within the balancer's namespace."""
    code = ("import sys, urllib.request, urllib.error\n"
            "try: r = urllib.request.urlopen(sys.argv[1], timeout=20)\n"
            "except urllib.error.HTTPError as error: r = error\n"
            "print(r.status, r.headers['Content-Type']); sys.stdout.write(r.read().decode())")
    result = control.balancer.run("/usr/bin/python3", "-c", code, f"http://{HTTP}{path}")
    head, _, body = result.stdout.partition("\n")
    status, _, content_type = head.partition(" ")
    return int(status), content_type, body


def samples(text):
    """{name{labels}: value} of OpenMetrics, whose rules are checked on the way."""
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    found, family, seen = {}, None, set()
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in seen, f"{family} in two places"
            seen.add(family)
            suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
        elif not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name.split("{")[0] == family + suffix, line
            assert name not in found, f"{name} twice"
            found[name] = float(value)
    return found


def test_metrics_health_and_readiness(control):
    reconfigure(control, f'[http]\nlisten = "{HTTP}"\n' + config() + SECOND_SERVICE)
    assert get(control, "/healthz")[0] == 200
    status, _, body = get(control, "/readyz")
    assert status == 503 and json.loads(body)["reasons"] == ["no data plane is running"]
    assert get(control, "/nothing")[0] == 404

    control.cli("backend", "drain", "web/b1")
    status, content_type, text = get(control, "/metrics")
    assert status == 200 and content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = samples(text)
    assert found['sluice_backend_state{service="web",backend="b1",state="drain"}'] == 1
    assert found['sluice_backend_state{service="web",backend="b1",state="up"}'] == 0
    assert found['sluice_backend_state{service="web",backend="b2",state="up"}'] == 1
    assert found['sluice_backend_packets_total{service="dns",backend="b1"}'] == 0
    assert found['sluice_service_backends_active{service="web"}'] == 2
    assert found['sluice_backend_checks_total{service="web",backend="b2"}'] > 0
    assert found["sluice_dataplane_up"] == 0
    assert found["sluice_generation"] == control.generation()
    assert [name for name in found if name.startswith("sluice_build_info{version=")]

    reconfigure(control, config())
    refused = control.balancer.run("curl", "-s", f"http://{HTTP}/healthz", check=False)
    assert refused.returncode == 7, "without [http] nobody listens"


def test_a_port_in_use_is_an_event_and_tried_again(control):
    holder = control.balancer.start("holder", ["/usr/bin/python3", "-m", "http.server", "9095", "--bind", "127.0.0.1"])
    wait_until(lambda: control.balancer.run("curl", "-s", f"http://{HTTP}/", check=False).returncode == 0, "the port is taken")
    reconfigure(control, f'[http]\nlisten = "{HTTP}"\n' + config())
    assert [e["level"] for e in control.json("show", "events", "--kind", "http_*")["events"]] == ["error"]
    holder.kill()
    wait_until(lambda: control.balancer.run("curl", "-sf", f"http://{HTTP}/healthz", check=False).returncode == 0,
               "HTTP works without a restart")


def test_lists_are_filtered_sorted_and_counted(control):
    control.cli("backend", "weight", "web/b2", "50")
    control.cli("backend", "drain", "web/b3")
    names = lambda *options: [b["name"] for b in control.json("show", "backends", *options)["backends"]]
    assert names("--filter", "admin=ready", "--sort", "weight") == ["b1", "b2"]
    assert names("--sort", "weight", "--reverse")[0] == "b2"
    assert names("--filter", "WEIGHT<60") == ["b2"]
    wrong = control.cli("show", "backends", "--filter", "HAELTH=up", check=False)
    assert wrong.returncode == 2 and "HEALTH" in wrong.stderr and wrong.stdout == ""
    rates = control.json("show", "services", "--rate", "--interval", "100ms")
    assert rates["rate"] and rates["services"][0]["packets"] == 0
    generation = control.json("show", "generation")
    assert generation["generation"] == control.generation() and generation["memory"]["process_resident_bytes"] > 1 << 20
    checksum = generation["checksum"]
    control.cli("backend", "weight", "web/b2", "51")
    assert control.json("show", "generation")["checksum"] != checksum
    control.cli("backend", "weight", "web/b2", "50")
    assert control.json("show", "generation")["checksum"] == checksum, "equal tables, equal checksum"
    assert control.cli("show", "flows", check=False).returncode == 1, "there is no data plane"
    for what in (["show", "drops"], ["show", "workers"], ["show", "generation"], ["show", "events"]):
        assert control.cli(*what).returncode == 0


def test_drain_can_wait_until_no_flows_are_left(control):
    done = control.cli("backend", "drain", "web/b1", "--wait", "--timeout", "5s")
    assert "no flows left" in done.stdout and done.stderr == ""
    assert control.cli("backend", "drain", "web/b1", "--wait", "--timeout", "soon", check=False).returncode == 2


@pytest.mark.parametrize("is_read_again", [True, False])
def test_a_log_that_nobody_reads_stops_nothing(control, is_read_again):
    control.sluiced.stop()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)  # full
    os.set_blocking(write_end, True)
    command = [program("controlplane/sluiced"), control.config_path, "--dir", DIRECTORY, "--state", STATE]
    with subprocess.Popen(control.balancer.enter(command), stderr=write_end, stdin=subprocess.DEVNULL) as sluiced:
        try:
            os.close(write_end)
            wait_until(lambda: control.cli("show", "services", check=False).returncode == 0, "sluiced answers")
            for weight in range(1, 20):
                assert control.json("backend", "weight", "web/b1", weight)["changed"]
            log = b""
            while is_read_again and b"weight=19" not in log:
                log += os.read(read_end, 4096)
        finally:
            sluiced.terminate()
            assert sluiced.wait(10) == 0
            os.close(read_end)


def test_logs_can_be_json(control):
    control.sluiced.kill()
    control.sluiced = control.balancer.start(
        "sluiced-json", [program("controlplane/sluiced"), control.config_path, "--dir", DIRECTORY, "--state", STATE,
                         "--log-format", "json"])
    wait_until(control.answers, "sluiced answers")
    control.cli("backend", "weight", "web/b1", "9")

    def audits():  # the log is written beside the answers
        events = [json.loads(line) for line in control.sluiced.output().splitlines()]
        return [event for event in events if event["kind"] == "audit"]
    audit = wait_until(audits, "an audit line")[-1]
    assert (audit["service"], audit["backend"]) == ("web", "b1") and audit["details"]["arguments"]["weight"] == 9
    assert audit["details"]["uid"] == os.getuid() and audit["details"]["after"] == 9
