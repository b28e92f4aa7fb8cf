"""Sessions end to end: clients stay where they are whatever changes around them, and the registry tells, moves and keeps
them as it says."""

import json
import random
import socket
import sys
import threading
from pathlib import Path

import pytest

from fabric import BACKENDS, VIPS4, program
from lab import wait_until
from sluice import HEALTH, on_fabric, service
from test_interfaces import Connection, samples
from traffic import curl_once, url

WEB, WAITS, BACK, PLAIN = VIPS4
HERE = Path(__file__).resolve().parent
HTTP = "127.0.0.1:9095"
HEALTH_OF_HTTP = HEALTH.replace('"http",', '"http", port = 80,')
SESSIONS = 'affinity = "client"\nidle_timeout = { session = "1h" }\n'
CONFIG = f'[http]\nlisten = "{HTTP}"\n' + "".join((
    service("web", WEB, "ipip", on_fabric(), more=SESSIONS),
    service("waits", WAITS, "ipip", on_fabric(), more=SESSIONS + 'on_failure = "keep"'),
    service("back", BACK, "ipip", on_fabric(), more=SESSIONS + 'on_failure = "return"'),
    service("game", PLAIN, "ipip", on_fabric(), port=9000, protocol="udp", health=HEALTH_OF_HTTP,
            more='affinity = "key"\n key = { offset = 2, bytes = 3 }\n'),
    service("few", WEB, "ipip", on_fabric(), port=81, health=HEALTH_OF_HTTP, more=SESSIONS + "max_sessions = 2"),
    service("plain", PLAIN, "ipip", on_fabric({"b1": 100, "b2": 100})),
))
NOT_THERE = 1


@pytest.fixture
def clients(balancer):
    """Makes new clients: addresses that nobody has seen."""
    return lambda count: [balancer.fabric.fresh_address("c1") for _ in range(count)]


@pytest.fixture(autouse=True)
def as_configured(balancer):
    yield
    for process, start in ((balancer.dataplane, balancer.start_dataplane), (balancer.sluiced, balancer.start_sluiced)):
        if not process.running():
            start()
    balancer.wait_answering()
    balancer.cli("overrides", "clear", check=False)
    for name, nginx in balancer.fabric.nginx.items():
        if not nginx.running():
            balancer.fabric.start_nginx(name)
    balancer.wait_ready()


def ask(balancer, client, vip=WEB):
    """Who serves a new connection of this client."""
    status, backend = curl_once(balancer.fabric.hosts["c1"], vip, "/", "--interface", client)
    assert status == 200, (client, vip, status)
    return backend


def ask_all(balancer, clients, vip=WEB):
    """The same for many, one curl for all: {client: backend}."""
    transfers = []
    for client in clients:
        transfers += ["--next"] if transfers else []
        transfers += ["-s", "--max-time", "10", "-H", "Connection: close", "--interface", client, "-o", "/dev/null",
                      "-w", f"{client} %{{http_code}} %header{{x-backend}}\n", url(vip)]
    lines = balancer.fabric.hosts["c1"].run("curl", *transfers, check=False, timeout=120).stdout.splitlines()
    answers = [line.split() for line in lines]
    assert all(answer[1] == "200" for answer in answers) and len(answers) == len(clients), answers
    return {client: backend for client, _, backend in answers}


def held(balancer, client, name="web"):
    """What the table has of this client, or None."""
    sessions = balancer.show("session", "show", name, client)["sessions"]
    return sessions[0] if sessions else None


def other_than(backend):
    return next(name for name in BACKENDS if name != backend)


def refused(balancer, *arguments):
    result = balancer.cli("session", *arguments, check=False)
    return result.returncode, result.stderr


# ---- Pins ---------------------------------------------------------------------------------------------------------------


def test_a_pin_decides_for_new_connections_until_it_is_taken_off(balancer, clients):
    client, neighbour = clients(2)
    first, neighbours = ask(balancer, client), ask(balancer, neighbour)
    assert (held(balancer, client)["backend"], held(balancer, client)["kind"]) == (first, "learnt")
    pinned = other_than(first)
    answer = balancer.change("session", "pin", "web", client, pinned)
    assert (answer["before"], answer["after"]) == (f"{first} (learnt)", f"{pinned} (pinned)")
    assert [ask(balancer, client) for _ in range(3)] == [pinned] * 3
    assert ask(balancer, neighbour) == neighbours
    listed = balancer.show("session", "show", "web", "--pinned")
    assert [s["hash"] for s in listed["sessions"]] == [answer["hash"]] and listed["total"] == 1
    assert listed["backends"] == [{"service": "web", "backend": pinned, "sessions": 1, "learnt": 0, "pinned": 1}]

    # Both processes killed: it is in the table, which outlives them.
    balancer.sluiced.kill()
    balancer.dataplane.kill()
    balancer.start_dataplane()
    balancer.start_sluiced()
    balancer.wait_ready()
    assert held(balancer, client)["kind"] == "pinned"
    assert ask(balancer, client) == pinned

    # By the hash that a list shows; of no service that does not share it.
    by_hash = "hash:" + answer["hash"]
    assert balancer.show("session", "show", "web", by_hash)["sessions"][0]["backend"] == pinned
    for service, wrong in (("back", by_hash), ("web", "hash:" + "0" * 16)):
        code, said = refused(balancer, "unpin", service, wrong)
        assert code == NOT_THERE and f"{service} has no session of this hash" in said
    assert "16 hex digits" in refused(balancer, "unpin", "web", "hash:12")[1]
    answer = balancer.change("session", "pin", "web", by_hash, first)
    assert (answer["before"], answer["after"]) == (f"{pinned} (pinned)", f"{first} (pinned)")
    assert balancer.change("session", "unpin", "web", by_hash)["after"] is None
    balancer.change("session", "pin", "web", client, pinned)

    answer = balancer.change("session", "unpin", "web", client)
    assert (answer["before"], answer["after"]) == (f"{pinned} (pinned)", None)
    assert held(balancer, client) is None
    assert ask(balancer, client) == first, "by the lookup table, as at first"
    code, said = refused(balancer, "unpin", "web", client)
    assert code == NOT_THERE and f"it is not pinned: {first} (learnt)" in said
    audits = [e["text"] for e in balancer.show("show", "events", "--kind", "audit")["events"]]
    assert any(f'session.unpin key={client} service=web: "{pinned} (pinned)" -> null' in text for text in audits), audits


def test_a_pin_with_an_end_ends(balancer, clients):
    client, = clients(1)
    first = ask(balancer, client)
    balancer.change("session", "pin", "web", client, other_than(first), "--ttl", "2s")
    assert held(balancer, client)["left_s"] <= 2
    assert ask(balancer, client) == other_than(first)
    wait_until(lambda: ask(balancer, client) == first, "the pin has ended")
    assert held(balancer, client)["kind"] == "learnt"


def test_what_cannot_be_is_refused_with_what_would_be(balancer):
    client = "198.51.100.2"
    before = balancer.show("session", "show", "--count")["backends"]
    for arguments, words in (
            (("pin", "wob", client, "b1"), "no service 'wob'\n  try: did you mean 'web'?"),
            (("pin", "web", client, "b4"), "b4 is not a backend of web: b1, b2, b3"),
            (("pin", "plain", client, "b1"), "service 'plain' has no sessions: its affinity is connection"),
            (("pin", "web", "198.51.100", "b1"), "'198.51.100' is not a client's address"),
            (("pin", "web", "2001:db8::1", "b1"), "different IP versions"),
            (("pin", "web", client, "b1", "--ttl", "900h"), "from 1s to 480h"),
            (("pin", "web", client, "b1", "--ttl", "soon"), "time 'soon' is not 90s"),
            (("pin", "game", "1234", "b1"), "key '1234' is not 3 bytes in hex"),
            (("pin", "game", "12345g", "b1"), "key '12345g' is not 3 bytes in hex"),
            (("unpin", "web", "192.0.2.77"), "there is no such session"),
            (("show", "plain"), "has no sessions"),
            (("show", "web", "--backend", "b4"), "b4 is not a backend of web"),
            (("show", "--backend", "cache"), "no service with sessions has a backend 'cache'\n  try: sluice show backends"),
            (("show", "--backend", "b22"), "no service with sessions has a backend 'b22'\n  try: did you mean 'b2'?")):
        code, said = refused(balancer, *arguments)
        assert code != 0 and words in said, (arguments, code, said)
    assert balancer.show("session", "show", "--count")["backends"] == before
    assert balancer.show("session", "show", "--backend", "b3")["ok"], "of any service"
    balancer.dataplane.kill()
    code, said = refused(balancer, "pin", "web", client, "b1")
    assert code == 1 and "no data plane runs" in said and "try: " in said


def test_a_key_is_pinned_by_its_bytes(balancer):
    for name in BACKENDS:
        balancer.fabric.hosts[name].start("game", [sys.executable, HERE / "udp_echo.py", name, PLAIN, 9000])

    def answers(size):
        """From four sockets, three datagrams each."""
        output = balancer.fabric.hosts["c1"].run(sys.executable, HERE / "udp_ask.py", PLAIN, 9000, 4, 3, size).stdout
        return {answer for answers in json.loads(output) for answer in answers}
    key = b"xxx".hex()
    wait_until(lambda: None not in answers(8), "all servers answer")
    first, = answers(8)
    said = balancer.show("explain", "udp", "198.51.100.2:4000", f"{PLAIN}:9000", "--key", key)
    assert (said["backend"], said["session"]["backend"]) == (first, first)
    pinned = other_than(first)
    balancer.change("session", "pin", "game", key, pinned)
    said = balancer.show("explain", "udp", "198.51.100.2:4000", f"{PLAIN}:9000", "--key", key)
    assert (said["session"]["backend"], said["session"]["kind"]) == (pinned, "pinned")
    # The key's flow goes on where it is; when it is forgotten the pin decides.
    assert (said["flow"]["backend"], said["backend"]) == (first, first)
    assert balancer.show("session", "show", "game", key)["sessions"][0]["backend"] == pinned
    keyless = balancer.dataplane_report()["dataplane"]["sessions"]["keyless"]
    answers(4)
    assert balancer.dataplane_report()["dataplane"]["sessions"]["keyless"] == keyless + 12
    balancer.change("session", "unpin", "game", key)


# ---- What happens around sessions -----------------------------------------------------------------------------------------


def test_clients_stay_where_they_are_whatever_changes_around_them(balancer, clients):
    tied = ask_all(balancer, clients(15))
    assert len(set(tied.values())) == 3, "or nothing could move"
    ever = ask_all(balancer, tied, BACK)
    for change in (("backend", "weight", "web/b1", "1"), ("backend", "drain", "web/b2"),
                   ("backend", "add", "web/b4", "10.0.1.14"), ("backend", "weight", "web/b3", "0"),
                   ("backend", "remove", "web/b4")):
        balancer.change(*change)
        assert ask_all(balancer, tied) == tied, change
    # What the lookup table says meanwhile is another matter: a new client only gets b1.
    assert set(ask_all(balancer, clients(5)).values()) == {"b1"}
    for kill, start, ready in ((balancer.sluiced, balancer.start_sluiced, balancer.wait_answering),
                               (balancer.dataplane, balancer.start_dataplane,
                                lambda: wait_until(balancer.workers_current, "the new data plane has the tables"))):
        kill.kill()
        start()
        ready()
        assert ask_all(balancer, tied) == tied
    assert ask_all(balancer, tied, BACK) == ever


def explained(balancer, client, vip):
    return balancer.show("explain", "tcp", f"{client}:40000", f"{vip}:80")


@pytest.mark.parametrize("name, vip", (("web", WEB), ("back", BACK), ("waits", WAITS)))
def test_when_its_backend_fails(balancer, clients, name, vip):
    """Only the sessions of the failed backend move, to where explain said, and come back, or wait, as on_failure says."""
    tied = ask_all(balancer, clients(12), vip)
    lost = [client for client, backend in tied.items() if backend == "b2"]
    others = {client: backend for client, backend in tied.items() if backend != "b2"}
    assert lost and others
    said = {client: explained(balancer, client, vip) for client in tied}
    for client, backend in tied.items():
        assert (said[client]["backend"], said[client]["session"]["backend"]) == (backend, backend)
    balancer.fabric.nginx["b2"].kill()
    wait_until(lambda: balancer.backend(name, "b2")["health"] == "down", "b2 is down")
    wait_until(balancer.workers_current, "the worker knows")
    assert ask_all(balancer, others, vip) == others
    if name == "waits":
        assert [curl_once(balancer.fabric.hosts["c1"], vip, "/", "--interface", client)[0] for client in lost] == [0] * len(lost)
        assert {explained(balancer, client, vip)["backend"] for client in lost} == {"b2"}
    else:
        now = ask_all(balancer, lost, vip)
        assert now == {client: said[client]["if_gone"]["backend"] for client in lost}
        assert now == {client: explained(balancer, client, vip)["backend"] for client in lost}
    balancer.fabric.start_nginx("b2")
    balancer.wait_ready()
    after = ask_all(balancer, tied, vip)
    assert {client: after[client] for client in others} == others
    assert all((after[client] == "b2") == (name != "web") for client in lost), "rehash stays, the others are back"


# ---- Out of the table, and into it again ---------------------------------------------------------------------------------


def start_with_an_empty_table(balancer):
    balancer.dataplane.kill()
    (balancer.directory / "flows").unlink()
    balancer.start_dataplane()
    wait_until(balancer.workers_current, "the new data plane has the tables")
    wait_until(lambda: balancer.cli("session", "show", check=False).returncode == 0, "the new table is in use")
    assert balancer.show("session", "show")["total"] == 0


def test_sessions_are_exported_and_imported(balancer, clients):
    start_with_an_empty_table(balancer)
    tied = ask_all(balancer, clients(12))
    pinned = clients(1)[0]
    balancer.change("session", "pin", "web", pinned, "b3")
    tied[pinned] = "b3"
    counts = balancer.show("session", "show", "--count")["backends"]
    assert sum(count["sessions"] for count in counts) == 13
    assert {(c["service"], c["backend"]): c["sessions"] for c in counts} == {
        key: b["sessions_active"] for key, b in balancer.backends().items() if b["sessions_active"]}
    assert balancer.services()["web"]["sessions_active"] == 13
    found = samples(balancer.host.run("curl", "-s", f"http://{HTTP}/metrics").stdout)
    assert found["sluice_sessions_active"] == 13 and found["sluice_sessions_max"] >= 2**18
    assert {name: found[f'sluice_backend_sessions_active{{service="web",backend="{name}"}}'] for name in BACKENDS} == {
        name: balancer.backend("web", name)["sessions_active"] for name in BACKENDS}
    table = balancer.dataplane_report()["dataplane"]["sessions"]
    assert (table["active"], table["max"]) == (13, found["sluice_sessions_max"])
    assert table["made"] == found["sluice_sessions_made_total"] >= 13
    file = balancer.fabric.folder / "sessions.json"
    balancer.cli("session", "export", "web", "--file", file)
    assert len(file.read_text().splitlines()) == 14
    # Line for line what goes to standard output; only ages, and with them the header, may differ.
    def names(text):
        return sorted((line["hash"], line["backend"], line["kind"]) for line in map(json.loads, text.splitlines()[1:]))
    assert names(balancer.cli("session", "export").stdout) == names(file.read_text())

    balancer.change("backend", "weight", "web/b1", "1")
    balancer.change("backend", "weight", "web/b2", "1")
    start_with_an_empty_table(balancer)
    elsewhere = [client for client, backend in tied.items() if explained(balancer, client, WEB)["backend"] != backend]
    assert elsewhere, "without their sessions they would move"

    # Cut short, and damaged: said with its place, and nothing is done.
    text = file.read_text()
    bad = balancer.fabric.folder / "bad.json"
    for damaged, words in ((text[:-40], "it is cut short"), (text.replace('"b3"', '"b2"', 1), "the checksum does not fit"),
                           ("[]\n", "this is no export of sessions")):
        bad.write_text(damaged)
        result = balancer.cli("session", "import", bad, check=False)
        assert result.returncode == 3 and words in result.stderr and "nothing was changed" in result.stderr, result
    assert balancer.cli("session", "import", file, "--dry-run").stdout.startswith("13 of 13 sessions would be imported")
    assert balancer.show("session", "show")["total"] == 0

    imported = balancer.show("session", "import", file)
    assert (imported["counts"]["made"], imported["sessions"]) == (13, 13)
    assert ask_all(balancer, tied) == tied
    assert held(balancer, pinned)["kind"] == "pinned"
    again = balancer.show("session", "import", file)
    assert (again["counts"]["made"], again["counts"]["kept"]) == (0, 13)


def test_an_export_goes_only_where_a_file_may_be(balancer, clients):
    folder = balancer.fabric.folder / "exports"
    folder.mkdir()
    (folder / "null").symlink_to("/dev/null")
    before = sorted(folder.iterdir())
    for path, words in ((folder, "is no regular file"), (folder / "null", "is no regular file"),
                        (folder / "none" / "file", "No such file or directory"), ("/proc/sessions.json", "cannot write")):
        code, said = refused(balancer, "export", "--file", path)
        assert code == 1 and words in said and "exported" not in said, (path, code, said)
    assert sorted(folder.iterdir()) == before and (folder / "null").is_symlink()
    # Without --file a device is as good as a pipe.
    client, = clients(1)
    balancer.change("session", "pin", "web", client, "b1")
    full = balancer.host.run("sh", "-c", f"{program('controlplane/sluice')} --dir {balancer.directory} session export > /dev/full",
                             check=False)
    assert full.returncode == 1 and "No space left on device" in full.stderr and "exported" not in full.stderr
    balancer.change("session", "unpin", "web", client)


def test_an_import_of_what_is_not_here_is_refused_whole(balancer, clients):
    balancer.change("backend", "add", "web/b4", "10.0.1.14")
    one, two = clients(2)
    balancer.change("session", "pin", "web", one, "b4")
    balancer.change("session", "pin", "web", two, "b1")
    file = balancer.fabric.folder / "unknown.json"
    balancer.cli("session", "export", "web", "--file", file)
    balancer.change("backend", "remove", "web/b4")
    balancer.change("session", "unpin", "web", two)
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if '"b4"' in text)
    result = balancer.cli("session", "import", file, check=False)
    assert result.returncode == 4 and f"unknown.json:{line}: no backend 'b4' in service 'web'" in result.stderr
    assert held(balancer, two) is None, "all or none"
    assert balancer.show("session", "import", file, "--skip-unknown")["counts"]["unknown"] == 1
    assert held(balancer, two)["backend"] == "b1"
    # Of another secret: the hashes name nobody. (A data plane that runs keeps its secret.)
    balancer.dataplane.kill()
    text = balancer.config_path.read_text()
    balancer.write_config('secret = "another"\n' + text)
    balancer.change("reload")
    try:
        result = balancer.cli("session", "import", file, check=False)
        assert result.returncode == 1 and "of another secret" in result.stderr
    finally:
        balancer.write_config(text)
        balancer.change("reload")


def sluiced_that_says(folder, *lines):
    """Answers one request, with these lines; returns its directory."""
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "control.sock"))
    listener.listen()

    def serve():
        with listener, listener.accept()[0] as peer, peer.makefile("rb") as requests:
            requests.readline()
            peer.sendall("".join(json.dumps({"v": 1, **line}) + "\n" for line in lines).encode())
            requests.readline()
    threading.Thread(target=serve, daemon=True).start()
    return folder


def test_names_in_an_import_command_no_terminal(balancer):
    """Of a file whose checksum is right: who has one may write one."""
    header = json.loads(balancer.cli("session", "export", "web").stdout.splitlines()[0])
    # A name goes into the file as it is: it has the escapes of JSON.
    forged = sluiced_that_says(
        balancer.fabric.folder / "forged", {"secret": header["secret"], "services": header["services"]},
        {"sessions": [["web", "b\\u001b[2J\\nsluice: ok", "1" * 16, 0, 1, 1], ["x" * 5000, "b1", "2" * 16, 0, 1, 1]]},
        {"ok": True, "count": 2})
    file = balancer.fabric.folder / "forged.json"
    balancer.host.run(program("controlplane/sluice"), "--dir", forged, "session", "export", "--file", file)
    result = balancer.cli("session", "import", file, check=False)
    assert result.returncode == 4 and "forged.json:2: no backend 'b\\u001b[2J\\nsluice: ok' in service 'web'" in result.stderr
    assert f"forged.json:3: no service '{'x' * 80}...'" in result.stderr and "\x1b" not in result.stderr
    # Nor does what sluiced says, or what was typed.
    lying = sluiced_that_says(balancer.fabric.folder / "lying", {"ok": False, "code": "failed", "error": "\x1b[2Jno\x9b"})
    result = balancer.host.run(program("controlplane/sluice"), "--dir", lying, "show", "services", check=False)
    assert result.stderr == "sluice: \\u001b[2Jno\\u009b\n", result
    assert "no service '\\u001bweb'" in refused(balancer, "show", "\x1bweb")[1]


def test_a_full_backend_gets_no_pin_and_no_import_unless_it_is_meant(balancer, clients):
    one, two, three = clients(3)

    def pin(client, backend, *options):
        return balancer.change("session", "pin", "few", client, backend, *options)["after"]

    def active(name):
        return balancer.backend("few", name)["sessions_active"]
    pin(one, "b1")
    pin(two, "b1")
    code, said = refused(balancer, "pin", "few", three, "b1")
    assert code == 1 and "b1 has as many sessions as it may: max_sessions is 2" in said and "--force" in said
    assert held(balancer, three, "few") is None and active("b1") == 2
    assert pin(one, "b1", "--ttl", "1h").startswith("b1 (pinned for"), "it has that one already"
    file = balancer.fabric.folder / "few.json"
    balancer.cli("session", "export", "few", "--file", file)
    for client in (one, two):
        balancer.change("session", "unpin", "few", client)
    pin(three, "b1")

    dry = balancer.cli("session", "import", file, "--dry-run").stdout
    assert dry.startswith("2 of 2 sessions would be imported") and "; up to 1 would find their backend full" in dry
    result = balancer.cli("--json", "session", "import", file, check=False)
    counts = json.loads(result.stdout)["counts"]
    assert result.returncode == 1 and (counts["made"], counts["full"]) == (1, 1), result
    assert "1 sessions were refused: their backends have max_sessions" in result.stderr
    assert active("b1") == 2 and held(balancer, three, "few")["kind"] == "pinned"
    again = json.loads(balancer.cli("--json", "session", "import", file, check=False).stdout)["counts"]
    assert (again["kept"], again["full"]) == (1, 1), "what is there takes no room"
    forced = balancer.show("session", "import", file, "--force")["counts"]
    assert (forced["made"], forced["kept"], forced["full"]) == (1, 1, 0) and active("b1") == 3
    pin(three, "b2")
    assert refused(balancer, "pin", "few", three, "b1")[0] == 1
    pin(three, "b1", "--force")
    # Whom explain names instead of a full one is who gets the session. Of the addresses that are given last.
    asked = ((f"198.51.100.{i}", balancer.show("explain", "tcp", f"198.51.100.{i}:40000", f"{WEB}:81")) for i in range(126, 80, -1))
    turned, other = next(pair for pair in asked if "b1 is full: it has 3 sessions (max_sessions 2)" in pair[1]["why"])
    assert f"the next choice that has room is {other['backend']}" in other["why"] and other["backend"] != "b1"
    host = balancer.fabric.hosts["c1"]
    host.ip(f"addr replace {turned}/25 dev eth0")
    host.run("curl", "-s", "--max-time", "2", "--interface", turned, url(WEB, port=81), check=False)
    host.ip(f"addr del {turned}/25 dev eth0")
    assert held(balancer, turned, "few")["backend"] == other["backend"]
    pin(turned, other["backend"])
    for client in (one, two, three, turned):
        balancer.change("session", "unpin", "few", client)
    assert active("b1") == active("b2") == 0


def test_an_import_is_two_events_however_many_requests_it_takes(balancer, clients):
    """The command line asks with 8,192 sessions at a time."""
    start_with_an_empty_table(balancer)
    client, = clients(1)
    balancer.change("session", "pin", "web", client, "b1")
    header = json.loads(balancer.cli("session", "export", "web").stdout.splitlines()[0])
    count = 3 * 8192
    random_bits = random.Random(1).getrandbits
    control = Connection(balancer.directory / "control.sock")
    made = control.ask(cmd="session.import", secret=header["secret"], services=header["services"], backends=[["web", "b2"]],
                       sessions=[[0, f"{random_bits(64):016x}", 0, 0, 0] for _ in range(count)])
    control.close()
    assert made["made"] == count, made
    file = balancer.fabric.folder / "many.json"
    balancer.cli("session", "export", "web", "--file", file)
    start_with_an_empty_table(balancer)
    count += 1  # the pin
    before = balancer.show("show", "events")["events"][-1]["number"]
    assert balancer.show("session", "import", file)["counts"]["made"] == count
    told = [e["details"] for e in balancer.show("show", "events", "--kind", "audit")["events"] if e["number"] > before]
    assert [(e["command"], e.get("part")) for e in told] == [
        ("session.import", None), ("session.import", "begin"), ("session.import", "end")], "a dry run comes first"
    assert told[1]["arguments"]["total"] == count
    assert (told[2]["after"]["made"], told[2]["requests"]) == (count, 4)
    assert sum(told[2]["after"].values()) == count, "what became of each"
    start_with_an_empty_table(balancer)


def test_a_drain_keeps_sessions_unless_they_migrate(balancer, clients):
    """Clients that are known still come to a backend in drain; with --migrate they are elsewhere from their next connection on."""
    served = ask_all(balancer, clients(30))
    on_b1 = {client for client, backend in served.items() if backend == "b1"}
    assert on_b1
    balancer.change("backend", "drain", "web/b1")
    assert ask_all(balancer, served) == served
    balancer.change("backend", "drain", "web/b1", "--migrate")
    assert balancer.backend("web", "b1")["admin"] == "migrate"
    after = ask_all(balancer, served)
    assert {client for client in served if after[client] != served[client]} == on_b1
    assert "b1" not in after.values()
    balancer.change("backend", "ready", "web/b1")
    assert ask_all(balancer, served) == after, "for good"
