"""What is on disk outlives everything: disks that are full, read-only or damaged, and SIGKILL at any instant. Real sluiced, real
checks; no data plane."""

import json
import os
import signal
import threading
import time

import pytest

from fabric import program
from lab import run, wait_until
from test_configuration import FAILURE, admin, restart, told, weights
from test_daemon import BACKENDS, DIRECTORY, STATE, control  # noqa: F401 (control is a fixture)


# ---- a disk that fails -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(control):
    """The state directory on a tmpfs of 64 KiB."""
    control.sluiced.signal(signal.SIGTERM)
    control.sluiced.wait()
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", STATE])
    try:
        control.start()
        control.wait_up()
        yield control
    finally:
        control.sluiced.kill()
        run(["umount", STATE])


def test_full_disk_is_told_and_mended(small_disk):
    control = small_disk
    filler = os.path.join(STATE, "filler")
    run(["dd", "if=/dev/zero", f"of={filler}", "bs=1k", "count=64"], check=False)
    result = control.cli("backend", "weight", "web/b1", "30")
    assert "not kept on disk" in result.stderr and "No space left" in result.stderr
    assert weights(control)["b1"] == 30, "in force all the same"
    assert told(control, "overrides are in force but not kept")
    restart(control)
    assert weights(control)["b1"] == 30, "the tables know it"
    os.unlink(filler)
    wait_until(lambda: os.path.exists(os.path.join(STATE, "overrides.json")), lambda: control.sluiced.output()[-1000:], 10)
    wait_until(lambda: told(control, "kept on disk again"), control.sluiced.output, 10)
    assert "not kept" not in control.cli("backend", "weight", "web/b1", "31").stderr


def test_a_deadline_ends_with_the_drain_that_it_was_given_for(small_disk):
    """Only the tables know what was decided last; the disk has the drains."""
    control = small_disk
    control.cli("backend", "drain", "web/b1", "--reset-after", "6s")
    control.cli("backend", "drain", "web/b2", "--reset-after", "1h")
    run(["dd", "if=/dev/zero", f"of={os.path.join(STATE, 'filler')}", "bs=1k", "count=64"], check=False)
    assert "not kept on disk" in control.cli("backend", "ready", "web/b1").stderr
    control.cli("backend", "weight", "web/b2", "30")
    restart(control)
    assert admin(control, "b1") == "ready"
    assert admin(control, "b2") == "drain" and control.backend("b2")["reset_in_s"] > 0
    control.cli("backend", "drain", "--force", "web/b3", "--reset-after", "6s")
    wait_until(lambda: admin(control, "b3") == "reset", "the last of them is reset", 20.0)
    assert (admin(control, "b1"), admin(control, "b2")) == ("ready", "drain")


def test_read_only_state_directory(control):
    control.sluiced.signal(signal.SIGTERM)
    control.sluiced.wait()
    run(["mount", "--bind", "-o", "ro", STATE, STATE])
    try:
        control.start()
        assert "Read-only file system" in control.cli("backend", "weight", "web/b1", "30").stderr
        assert weights(control)["b1"] == 30
        run(["mount", "-o", "remount,bind,rw", STATE])
        wait_until(lambda: told(control, "kept on disk again"), lambda: control.sluiced.output()[-1000:], 10)
    finally:
        control.sluiced.kill()
        run(["umount", STATE])


@pytest.mark.parametrize("name", ["config.json", "overrides.json", "health.json"])
def test_damaged_state_is_told_and_kept_aside(control, name):
    control.cli("backend", "weight", "web/b1", "30")
    time.sleep(1.2)
    control.sluiced.signal(signal.SIGKILL)
    control.sluiced.wait()
    path = os.path.join(STATE, name)
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"\0\xff damaged")
    run(["rm", "-f", os.path.join(DIRECTORY, "tables")])  # nothing else knows it
    control.start()
    control.wait_up()
    assert told(control, name) and told(control, "damaged"), control.sluiced.output()
    assert os.path.exists(path + ".damaged")
    assert weights(control)["b1"] == (100 if name == "overrides.json" else 30)


def weights_or_nothing(control):
    answer = control.cli("--json", "show", "backends", "web", check=False)
    return [b["name"] for b in json.loads(answer.stdout)["backends"]] if answer.returncode == 0 else []


def test_two_instances_do_not_share_a_state_directory(control):
    second = control.balancer.run(program("controlplane/sluiced"), control.config_path, "--dir", control.lab.folder / "second",
                                  "--state", STATE, check=False)
    assert second.returncode == FAILURE and f"another sluiced keeps its state in {STATE}" in second.stderr
    assert "--state" in second.stderr
    restart(control)


# ---- killed at any instant ---------------------------------------------------------------------------------------------------


def test_two_hundred_kills_under_a_stream_of_updates(control):
    """What was answered as done is there after each SIGKILL, in the order of its answers; what was not answered is there
    as a whole or not at all."""
    done = {"b1": 100, "b2": 100}    # the last weight that was answered
    asked = {"b1": 100, "b2": 100}   # the last that was sent
    stop = threading.Event()
    added, unsure = set(), set()  # n1...; those of whose last change no answer came
    lock = threading.Lock()

    def update(name):
        weight = 0
        while not stop.is_set():
            weight = weight % 60000 + 1
            with lock:
                asked[name] = weight
            if control.cli("backend", "weight", f"web/{name}", weight, check=False).returncode == 0:
                with lock:
                    done[name] = weight

    def add_and_remove():
        number = 0
        while not stop.is_set():
            if len(unsure) == 5:  # ask what became of them
                there = set(weights_or_nothing(control))
                if not there:
                    time.sleep(0.01)
                    continue
                with lock:
                    added.clear()
                    added.update(there - set(BACKENDS))
                    unsure.clear()
            number += 1
            name = f"n{number % 5}"
            with lock:
                if name in unsure:
                    continue
                known = name in added
                unsure.add(name)
            verb = ["remove", f"web/{name}"] if known else ["add", f"web/{name}", f"10.0.1.{50 + number % 5}"]
            if control.cli("backend", *verb, check=False).returncode == 0:
                with lock:
                    (added.discard if known else added.add)(name)
                    unsure.discard(name)

    threads = [threading.Thread(target=update, args=(name,)) for name in done] + [threading.Thread(target=add_and_remove)]
    for thread in threads:
        thread.start()
    try:
        generation = control.generation()
        for kill in range(200):
            time.sleep(0.02 + kill % 17 * 0.004)
            control.sluiced.signal(signal.SIGKILL)
            control.sluiced.wait()
            with lock:
                least = dict(done)
            control.start()
            now = weights(control)
            with lock:
                most = dict(asked)
            for name in least:
                assert least[name] <= now[name] <= most[name] or most[name] < least[name], (kill, name, least, now, most)
            assert control.generation() >= generation, "generations never go back"
            generation = control.generation()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    there = set(weights(control)) - set(BACKENDS)
    assert there - unsure == added - unsure
    assert not told(control, "damaged")
