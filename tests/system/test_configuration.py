"""Configurations and what operators decide beside them: diff, apply, confirm, roll back, overrides, and what of it is there
after the processes, or the machine, were gone (a failing disk, many kills: test_state.py). Real sluiced, real checks; no data
plane."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from fabric import program
from lab import run, wait_until
from test_daemon import BACKENDS, DIRECTORY, SECOND_SERVICE, STATE, config, control  # noqa: F401 (control is a fixture)

DIFFERS, SEMANTIC, PARSE, USAGE, FAILURE = 7, 4, 3, 2, 1


def weights(control):
    return {b["name"]: b["weight"] for b in control.json("show", "backends", "web")["backends"]}


def told(control, words):
    """Did sluiced say so? Each event is in its log."""
    return words in control.sluiced.output()


def write(control, name, text):
    path = control.lab.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def restart(control, signal_number=signal.SIGKILL):
    control.sluiced.signal(signal_number)
    control.sluiced.wait()
    control.start()


def reboot(control):
    """As after a power cycle: shared memory is gone, the state directory is not."""
    control.sluiced.signal(signal.SIGKILL)
    control.sluiced.wait()
    kept = control.lab.folder / "kept"
    shutil.copytree(STATE, kept)
    run(["rm", "-rf", DIRECTORY])
    os.mkdir(DIRECTORY)
    shutil.copytree(kept, STATE)
    shutil.rmtree(kept)
    control.start()


# ---- diff and apply ----------------------------------------------------------------------------------------------------


def test_diff_says_what_would_change_and_what_moves(control):
    new = write(control, "new.toml", config({"b1": 50, "b3": 100}, SECOND_SERVICE))
    result = control.cli("--json", "diff", new, check=False)
    assert result.returncode == DIFFERS, result.stderr
    answer = json.loads(result.stdout)
    changes = {(o["service"], o["backend"]): o for o in answer["objects"]}
    assert changes["web", "b1"]["keys"] == [{"key": "weight", "from": "100", "to": "50"}]
    assert changes["web", "b2"]["change"] == "removed"
    assert changes["dns", ""]["change"] == changes["dns", "b1"]["change"] == "added"
    flows = {f["service"]: f for f in answer["flows"]}
    # 100/100/100 to 50/-/100: b2's third goes to b3, and nothing else has to.
    assert flows["web"]["ideal_percent"] == pytest.approx(100 / 3, abs=0.01)
    assert 33 < flows["web"]["hash_space_moved_percent"] < 60
    assert weights(control) == dict.fromkeys(BACKENDS, 100), "a diff changes nothing"

    same = control.cli("diff", control.config_path, check=False)
    assert same.returncode == 0 and "the files say the same" in same.stdout


def test_diff_shows_another_sorry_backend(control):
    def with_sorry(address):
        sorry = f'sorry = {{ name = "apology", address = "{address}" }}'
        return config().replace('forward = "ipip"', f'forward = "ipip"\n{sorry}')
    control.config_path.write_text(with_sorry("10.0.1.21"))
    control.cli("reload")
    control.wait_up()
    result = control.cli("--json", "diff", write(control, "new.toml", with_sorry("10.0.1.22")), check=False)
    assert result.returncode == DIFFERS
    answer = json.loads(result.stdout)
    (changed,) = answer["objects"]
    (key,) = changed["keys"]
    assert (changed["service"], changed["change"], key["key"]) == ("web", "changed", "sorry.address")
    assert "10.0.1.21" in key["from"] and "10.0.1.22" in key["to"]
    assert answer["flows"] == [], "nobody is on it"


def test_a_changed_weight_of_one_in_a_thousand_moves_little(control):
    def thousand(first_weight):
        text = config().split("  [[service.backend]]")[0]
        for i in range(1000):
            weight = first_weight if i == 0 else 100
            text += f'  [[service.backend]]\n  name = "c{i}"\n  address = "10.1.{i // 250}.{i % 250 + 1}"\n  weight = {weight}\n'
        return text.replace('type = "http", path = "/",', 'type = "none" } # {')
    control.cli("apply", write(control, "big.toml", thousand(100)))
    # Nobody of them can be reached, so the published table is empty; what the files come to is compared.
    answer = json.loads(control.cli("--json", "diff", write(control, "big2.toml", thousand(90)), check=False).stdout)
    assert [o["backend"] for o in answer["objects"]] == ["c0"]


def test_apply_is_all_or_nothing(control):
    before = control.generation()
    bad = write(control, "bad.toml", config(extra=SECOND_SERVICE.replace("udp", "upd").replace("10.0.1.11", "10.0.1.999")))
    result = control.cli("apply", bad, check=False)
    assert result.returncode == SEMANTIC
    assert '"upd"' in result.stderr and "10.0.1.999" in result.stderr, "every fault at once"
    assert f"{bad}:" in result.stderr and "^" in result.stderr
    assert control.generation() == before
    assert control.cli("apply", write(control, "torn.toml", "[[service"), check=False).returncode == PARSE
    assert control.cli("apply", control.lab.folder / "none.toml", check=False).returncode == PARSE

    good = write(control, "good.toml", config({"b1": 10, "b2": 20, "b3": 30}, SECOND_SERVICE))
    dry = control.cli("apply", "--dry-run", good)
    assert "web/b1" in dry.stdout and control.generation() == before
    control.cli("apply", good)
    assert weights(control) == {"b1": 10, "b2": 20, "b3": 30}
    assert control.generation() == before + 1, "one generation for all services"
    assert len(control.json("show", "services")["services"]) == 2


def test_apply_json_and_a_folder(control):
    document = {"service": [{"name": "web", "vip": "203.0.113.10", "port": 80, "protocol": "tcp", "forward": "ipip",
                             "health": {"type": "tcp", "interval": "100ms"},
                             "backend": [{"name": "b1", "address": BACKENDS["b1"], "weight": 7}]}]}
    control.cli("apply", write(control, "a.json", json.dumps(document, indent=2)))
    assert weights(control) == {"b1": 7}
    document["service"][0]["wieght"] = 1
    bad = control.cli("apply", write(control, "a.json", json.dumps(document, indent=2)), check=False)
    assert bad.returncode == SEMANTIC and "a.json:2" in bad.stderr and "unknown key 'wieght'" in bad.stderr

    write(control, "conf.d/10-dns.toml", SECOND_SERVICE)
    control.cli("apply", control.config_path)
    assert [s["name"] for s in control.json("show", "services")["services"]] == ["web", "dns"]
    write(control, "conf.d/20-again.toml", SECOND_SERVICE)
    twice = control.cli("check", control.config_path, check=False)
    assert twice.returncode == SEMANTIC
    assert "20-again.toml:3:8" in twice.stderr and "10-dns.toml" in twice.stderr


def test_unconfirmed_goes_back(control):
    new = write(control, "new.toml", config({"b1": 1, "b2": 1, "b3": 2}))
    control.cli("apply", "--confirm", "2s", new)
    assert weights(control)["b3"] == 2
    another = control.cli("apply", control.config_path, check=False)
    assert another.returncode == FAILURE and "sluice confirm" in another.stderr
    wait_until(lambda: weights(control) == dict.fromkeys(BACKENDS, 100), lambda: str(weights(control)), 10)
    assert told(control, "back to ")
    assert control.cli("confirm", check=False).returncode == FAILURE

    control.cli("apply", "--confirm", "60s", new)
    control.cli("rollback")
    assert weights(control)["b3"] == 100
    control.cli("apply", "--confirm", "2s", new)
    control.cli("confirm")
    time.sleep(3)
    assert weights(control)["b3"] == 2


def test_unconfirmed_goes_back_although_sluiced_was_killed(control):
    control.cli("apply", "--confirm", "3s", write(control, "new.toml", config({"b1": 1, "b2": 1, "b3": 2})))
    restart(control)
    assert weights(control)["b3"] == 2, "still on trial"
    wait_until(lambda: weights(control) == dict.fromkeys(BACKENDS, 100), lambda: str(weights(control)), 10)


def test_a_rollback_brings_back_what_operators_had_decided(control):
    control.cli("backend", "drain", "web/b3")
    control.cli("backend", "weight", "web/b1", "7")
    control.cli("backend", "weight", "web/b2", "8")
    decided = control.json("show", "overrides")["overrides"]
    trial = write(control, "new.toml", config({"b1": 1, "b2": 100}))
    dry = control.cli("diff", trial, check=False)
    assert "override dropped" in dry.stdout and not told(control, "does not fit"), "a dry run changes and tells nothing"
    for way_back in (["rollback"], ["kill", "rollback"]):
        control.cli("apply", "--confirm", "60s", trial)
        assert weights(control) == {"b1": 1, "b2": 8}
        assert "sluice confirm" in control.cli("show", "dataplane").stdout
        if "kill" in way_back:
            restart(control)
        control.cli("backend", "weight", "web/b2", "9")
        control.cli("rollback")
        after = control.json("show", "overrides")["overrides"]
        assert weights(control) == {"b1": 7, "b2": 9, "b3": 100} and control.backend("b3")["admin"] == "drain"
        control.cli("backend", "weight", "web/b2", "8")
        assert control.json("show", "overrides")["overrides"] == decided, after


def test_killed_at_any_moment_of_a_trial_it_still_is_one(control):
    before = dict.fromkeys(BACKENDS, 100)
    trial = write(control, "new.toml", config({"b1": 1, "b2": 1, "b3": 2}))
    for kill in range(24):
        command = ["rollback"] if kill % 2 else ["apply", "--confirm", "60s", trial]
        with subprocess.Popen(control.balancer.enter([program("controlplane/sluice"), "--dir", DIRECTORY, *command]),
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(0.008 + kill % 7 * 0.002)
            restart(control)
        in_force = control.json("show", "dataplane")["control"]
        if weights(control) != before:
            assert in_force["confirm_within_s"] is not None, f"kill {kill}: on trial no more"
            if kill % 2:
                control.cli("rollback")
        elif not kill % 2:
            assert in_force["confirm_within_s"] is None
            control.cli("apply", "--confirm", "60s", trial)
    assert weights(control) == before


# ---- what is there after a restart ---------------------------------------------------------------------------------------


def test_applied_stays_in_force_until_the_file_changes(control):
    control.cli("apply", write(control, "other.toml", config({"b1": 5, "b2": 5, "b3": 6})))
    for again in (restart, reboot):
        again(control)
        assert weights(control) == {"b1": 5, "b2": 5, "b3": 6}, again.__name__
    control.config_path.write_text(config({"b1": 9, "b2": 9, "b3": 9}))
    restart(control)
    assert weights(control) == dict.fromkeys(BACKENDS, 9), "the file is newer"


def test_bad_file_at_start_gives_way_to_the_last_good_one(control):
    control.config_path.write_text("[[service]]\nname = 3\n")
    reboot(control)
    assert weights(control) == dict.fromkeys(BACKENDS, 100)
    assert told(control, "the last good configuration is in force")
    assert control.cli("reload", check=False).returncode == SEMANTIC
    control.config_path.write_text(config({"b1": 1, "b2": 2, "b3": 3}))
    control.cli("reload")
    assert weights(control) == {"b1": 1, "b2": 2, "b3": 3}


def test_an_edit_that_was_refused_is_not_forgotten(control):
    """CONFIG edited while something else is on trial: it is newer than what it goes back to."""
    control.cli("apply", "--confirm", "60s", write(control, "new.toml", config({"b1": 1})))
    control.config_path.write_text(config({"b1": 4, "b2": 4, "b3": 4}))
    assert control.cli("reload", check=False).returncode == FAILURE
    control.sluiced.signal(signal.SIGHUP)
    wait_until(lambda: told(control, "not taken over: another configuration waits"), lambda: control.sluiced.output()[-1000:])
    control.cli("rollback")
    restart(control)
    assert set(weights(control).values()) == {4}


def test_a_file_that_leaves_no_service_gives_way_to_the_last_good_one(control):
    control.config_path.write_text(config(extra=SECOND_SERVICE))
    control.cli("reload")
    control.cli("service", "remove", "web")
    control.config_path.write_text(config())
    refused = control.cli("reload", check=False)
    assert refused.returncode == FAILURE and "no service would be left" in refused.stderr
    restart(control)
    assert [s["name"] for s in control.json("show", "services")["services"]] == ["dns"]
    assert told(control, "the last good configuration is in force")


def test_overrides_survive_and_are_shown(control):
    control.cli("backend", "weight", "web/b1", "40")
    control.cli("backend", "drain", "web/b2")
    control.cli("backend", "add", "web/b4", "10.0.1.14", "--weight", "7")
    control.cli("backend", "remove", "web/b3")
    service = write(control, "dns.toml", SECOND_SERVICE)
    control.cli("service", "add", service)

    def as_decided():
        backends = {b["name"]: b for b in control.json("show", "backends", "web")["backends"]}
        return (set(backends) == {"b1", "b2", "b4"} and backends["b1"]["weight"] == 40 and backends["b4"]["weight"] == 7
                and backends["b2"]["admin"] == "drain"
                and [s["name"] for s in control.json("show", "services")["services"]] == ["web", "dns"])
    assert as_decided(), control.cli("show", "backends").stdout
    for again in (restart, reboot, lambda c: c.cli("reload")):
        again(control)
        assert as_decided(), control.cli("show", "backends").stdout + control.sluiced.output()[-2000:]
    text = control.cli("show", "overrides").stdout
    for word in ("web/b1  weight 40 (files: 100)", "web/b2  admin drain", "web/b3  removed", "added, address 10.0.1.14, weight 7",
                 "dns     added"):
        assert word in text, text

    control.cli("overrides", "clear", "web/b3")
    assert "b3" in weights(control)
    control.cli("overrides", "clear")
    assert weights(control) == dict.fromkeys(BACKENDS, 100)
    assert "no overrides" in control.cli("show", "overrides").stdout


def test_overrides_are_written_back(control):
    control.cli("backend", "weight", "web/b1", "40")
    control.cli("backend", "drain", "web/b2")
    control.cli("backend", "add", "web/b4", "10.0.1.14")
    control.cli("backend", "remove", "web/b3")
    decided = control.json("show", "backends", "web")
    shown = control.cli("overrides", "write", "--dry-run").stdout
    assert "weight = 40" in shown and not (control.lab.folder / "conf.d").exists()
    control.cli("overrides", "write")
    assert "no overrides" in control.cli("show", "overrides").stdout

    def essence(answer):
        return {b["name"]: (b["address"], b["weight"], b["admin"]) for b in answer["backends"]}
    assert essence(control.json("show", "backends", "web")) == essence(decided)
    control.cli("check", control.config_path)
    shutil.rmtree(STATE)  # the files say it all now
    control.sluiced.signal(signal.SIGKILL)
    control.sluiced.wait()
    run(["rm", "-rf", DIRECTORY])
    control.start()
    assert essence(control.json("show", "backends", "web")) == essence(decided)
    control.cli("backend", "weight", "web/b4", "3")
    control.cli("overrides", "write")
    assert weights(control) == {"b1": 40, "b2": 100, "b4": 3}


def test_the_files_new_weight_beats_an_older_decision(control):
    control.cli("backend", "weight", "web/b1", "0")
    control.config_path.write_text(config({"b1": 60, "b2": 100, "b3": 100}))
    control.cli("reload")
    assert weights(control)["b1"] == 60
    assert told(control, "gives way to the files' new one")
    control.cli("backend", "weight", "web/b1", "0")
    control.cli("reload")
    assert weights(control)["b1"] == 0, "0 stays 0"


def test_health_is_remembered_over_a_reboot(control):
    control.servers["b2"].kill()
    control.wait_health("b2", "down")
    time.sleep(1.5)  # health is written at most once a second
    for server in control.servers.values():
        if server is not control.servers["b2"]:
            server.kill()  # nobody answers: what is shown now can only be remembered
    control.wait_health("b1", "down")
    for name in ("b1", "b3"):
        control.serve(name)
    control.wait_health("b1", "up")
    time.sleep(1.5)
    control.sluiced.signal(signal.SIGSTOP)  # sees nothing any more
    for name in ("b1", "b3"):
        control.servers[name].kill()
    control.lab.hosts["backends"].ip("link set eth0 down")  # the first check of the next one has no answer for a while
    reboot(control)
    assert {name: control.backend(name)["health"] for name in BACKENDS} == {"b1": "up", "b2": "down", "b3": "up"}


# ---- wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, code, words", [
    (("backend", "add", "web/b1", "10.0.1.99"), FAILURE, "already"),
    (("backend", "add", "web/b9", "10.0.1.11"), FAILURE, "web/b1 has the address"),
    (("backend", "add", "web/b9", "203.0.113.10"), FAILURE, "VIP"),
    (("backend", "add", "web/b9", "224.0.0.1"), USAGE, "unicast"),
    (("backend", "add", "web/b 9", "10.0.1.99"), USAGE, "no name"),
    (("backend", "add", "wbe/b9", "10.0.1.99"), FAILURE, "did you mean 'web'?"),
    (("backend", "add", "web", "10.0.1.99"), USAGE, "SERVICE/BACKEND"),
    (("backend", "remove", "web/b9"), FAILURE, "no backend 'b9'"),
    (("backend", "drain", "web/x*"), FAILURE, "no backend matches"),
    (("backend", "weight", "web/b1", "ten"), USAGE, "whole number"),
    (("service", "remove", "wbe"), FAILURE, "did you mean 'web'?"),
    (("service", "remove", "web"), FAILURE, "no service would be left"),
    (("overrides", "clear", "web/b1"), FAILURE, "no override"),
    (("overrides", "write"), FAILURE, "no overrides"),
    (("rollback",), FAILURE, "nothing to go back to"),
    (("apply", "/dev/zero"), PARSE, "regular file"),
])
def test_wrong_commands_change_nothing(control, arguments, code, words):
    before = control.generation(), weights(control)
    result = control.cli(*arguments, check=False)
    assert result.returncode == code and words in result.stderr, (result.returncode, result.stderr)
    assert (control.generation(), weights(control)) == before


def test_several_targets_are_one_change(control):
    before = control.generation()
    answer = json.loads(control.cli("--json", "backend", "weight", "web/b1", "web/b[23]", "5").stdout)
    assert answer["backends"] == ["web/b1", "web/b2", "web/b3"]
    assert control.generation() == before + 1 and set(weights(control).values()) == {5}
    assert control.cli("backend", "weight", "web/*", "web/nobody", "6", check=False).returncode == FAILURE
    assert set(weights(control).values()) == {5}, "all or none"


def test_a_service_is_disabled_and_enabled(control):
    control.config_path.write_text(config(extra=SECOND_SERVICE))
    control.cli("reload")

    def states():
        return {s["name"]: s["enabled"] for s in control.json("show", "services")["services"]}
    control.cli("service", "disable", "w*")
    assert states() == {"web": False, "dns": True}
    reboot(control)
    assert states() == {"web": False, "dns": True}
    assert "disabled" in control.cli("show", "overrides").stdout
    control.cli("service", "enable", "web")
    assert states() == {"web": True, "dns": True} and "no overrides" in control.cli("show", "overrides").stdout
    added = SECOND_SERVICE.replace("dns", "dns2").replace("port = 53", "port = 54\nenabled = false")
    control.cli("service", "add", write(control, "added.toml", added))
    assert states()["dns2"] is False
    control.cli("service", "enable", "dns2")
    assert states()["dns2"] is True
    assert control.cli("service", "disable", "wbe", check=False).returncode == FAILURE


def test_min_healthy_is_crossed_only_by_force(control):
    control.config_path.write_text(config().replace('forward = "ipip"', 'forward = "ipip"\nmin_healthy = 2'))
    control.cli("reload")
    control.wait_up()
    control.cli("backend", "drain", "web/b1")
    for verb in (["drain"], ["maint"], ["remove"]):
        refused = control.cli("backend", *verb, "web/b2", check=False)
        assert refused.returncode == FAILURE and "--force" in refused.stderr and "min_healthy: 2" in refused.stderr
    assert control.cli("backend", "weight", "web/b2", "0", check=False).returncode == FAILURE
    assert control.backend("b2")["admin"] == "ready" and control.backend("b2")["weight"] == 100
    control.cli("backend", "drain", "--force", "--wait", "--timeout", "9s", "web/b2")
    assert control.backend("b2")["admin"] == "drain"
    control.cli("backend", "drain", "web/b1")  # takes nothing away
    control.cli("backend", "ready", "web/*")


# ---- drain --reset-after -----------------------------------------------------------------------------------------------


def admin(control, name):
    return control.backend(name)["admin"]


def test_a_drain_is_reset_by_sluiced_whoever_is_killed_meanwhile(control):
    said = control.cli("backend", "drain", "web/b1", "--reset-after", "2s").stdout
    assert said.startswith("web/b1: drain, reset in ")
    restart(control)
    wait_until(lambda: admin(control, "b1") == "reset", "b1 is reset", 20.0)
    assert told(control, "web/b1 had 2 s to drain: reset now")
    assert "reset in" not in control.cli("show", "overrides").stdout
    # While sluiced was gone its time went on.
    control.cli("backend", "drain", "web/b2", "--migrate", "--reset-after", "1s")
    control.sluiced.kill()
    time.sleep(1)
    control.start()
    wait_until(lambda: admin(control, "b2") == "reset", "b2 is reset", 20.0)


def test_only_what_still_drains_is_reset(control):
    control.cli("backend", "drain", "web/b1", "--reset-after", "3s")
    control.cli("backend", "ready", "web/b1")
    control.cli("backend", "drain", "web/b2", "--reset-after", "3s")
    control.cli("backend", "drain", "web/b2", "--reset-after", "1h")
    # The last word counts: a drain without a deadline has none, and says so.
    control.cli("backend", "drain", "web/b1", "--reset-after", "3s")
    said = control.cli("backend", "drain", "web/b1").stdout
    assert said.startswith("web/b1: drain, the reset of web/b1 in ") and " s is called off; " in said and "no change" not in said, said
    assert "reset_in_s" not in control.backend("b1") and admin(control, "b1") == "drain"
    assert not control.json("backend", "drain", "web/b1").keys() & {"reset_in_s", "reset_called_off"}
    control.cli("backend", "drain", "--force", "web/b3", "--reset-after", "3s")
    wait_until(lambda: admin(control, "b3") == "reset", "the last of them is reset", 20.0)
    assert (admin(control, "b1"), admin(control, "b2")) == ("drain", "drain")
    assert control.backend("b2")["reset_in_s"] > 0 and "reset_in_s" not in control.backend("b1")
    text = control.cli("show", "overrides").stdout
    assert "web/b2  admin drain, reset in 3" in text and "web/b1  admin drain\n" in text, text
    refused = control.cli("overrides", "write", check=False)
    assert refused.returncode == FAILURE and "web/b2 drains and will be reset, which no file can say" in refused.stderr

    reboot(control)
    assert admin(control, "b2") == "drain" and 0 < control.backend("b2")["reset_in_s"] <= 3600
    control.cli("backend", "drain", "--migrate", "web/b2")
    assert "reset_in_s" not in control.backend("b2"), "another state: decided anew"
    control.cli("backend", "ready", "web/b1")
    control.cli("overrides", "write")
    for words in (["--reset-after", ""], ["--reset-after", "soon"], ["--reset-after", "241h"], ["--reset-after", "0s"],
                  ["--reset-after", "1h", "--timeout", "1s"]):
        assert control.cli("backend", "drain", "web/b1", *words, check=False).returncode == USAGE, words
    assert admin(control, "b1") == "ready"


def test_removals_at_once_do_not_cross_min_healthy_together(control):
    control.config_path.write_text(config().replace('forward = "ipip"', 'forward = "ipip"\nmin_healthy = 2'))
    control.cli("reload")
    control.wait_up()
    codes = []
    threads = [threading.Thread(target=lambda name=name: codes.append(
        control.cli("backend", "remove", f"web/{name}", check=False).returncode)) for name in BACKENDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0, FAILURE, FAILURE] and len(weights(control)) == 2


def test_a_service_is_added_only_where_it_fits(control):
    """What `sluice check` refuses is refused at run time, too, and nobody who is there has to go for it."""
    shop = 'forward = "ipip"\naffinity = "client"\ngroup = "shop"'
    control.config_path.write_text(config().replace('forward = "ipip"', shop))
    control.cli("reload")
    control.cli("service", "add", write(control, "dns.toml", SECOND_SERVICE))

    def names():
        return [s["name"] for s in control.json("show", "services")["services"]]
    tls = config().replace("web", "tls").replace("port = 80", "port = 443")
    for text, words in (
            (SECOND_SERVICE.replace("dns", "a-dns"), "dns has 203.0.113.53 port 53 (udp) already"),
            (SECOND_SERVICE, "there is a service 'dns' already"),
            (tls.replace('forward = "ipip"', shop.replace('"client"', '"prefix"')),
             "'tls' and 'web' of group 'shop' name their sessions differently")):
        refused = control.cli("service", "add", write(control, "added.toml", text), check=False)
        assert refused.returncode == FAILURE and words in refused.stderr, refused
        assert names() == ["web", "dns"]
    control.cli("service", "add", write(control, "added.toml", tls.replace('forward = "ipip"', shop)))
    assert names() == ["web", "dns", "tls"]


def test_a_backend_of_an_added_service_is_removed(control):
    control.cli("service", "add", write(control, "added.toml", SECOND_SERVICE + """
  [[service.backend]]
  name = "b2"
  address = "10.0.1.12"
"""))
    control.cli("backend", "remove", "dns/b1")
    assert [b["name"] for b in control.json("show", "backends", "dns")["backends"]] == ["b2"]
    restart(control)
    assert [b["name"] for b in control.json("show", "backends", "dns")["backends"]] == ["b2"]
