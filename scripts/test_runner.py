#!/usr/bin/env python3
"""Runs groups of tests for scripts/test.sh and counts their test cases.

  targets  --build FOLDER SUITE...            the files to build for these Meson suites
  meson    --group NAME --build FOLDER SUITE...   runs them
  pytest   --group NAME --folder FOLDER [--parallel]   runs a folder of Python tests; in parallel: its files, a CPU each
  summary                                     all groups so far; the last line is "N passed, N failed"

A test case is a gtest TEST or a pytest function; an executable of another kind counts as one. One that crashes, hangs
or reports nothing counts as one failure more. Each group leaves RESULTS/GROUP.json; a failing group does not stop the
script: `summary` gives the exit status.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from multiprocessing.pool import ThreadPool
from pathlib import Path

EXECUTABLE_TIMEOUT_S = 240
PYTEST_TIMEOUT_S = 720


def say(arguments, text):
    print(f"[{time.time() - arguments.started:6.1f}s] {text}", flush=True)


def introspect(build, what):
    return json.loads(subprocess.check_output(["meson", "introspect", what, str(build)]))


def registered_tests(build, suites):
    """Meson's own list, so that no registered test is forgotten."""
    return [test for test in introspect(build, "--tests")
            if {suite.split(":")[-1] for suite in test["suite"]} & set(suites)]


def test_targets(build, suites):
    """What Meson builds of the files that these tests' command lines name."""
    built = {path for target in introspect(build, "--targets") for path in target["filename"]}
    needed = {part for test in registered_tests(build, suites) for part in test["cmd"]}
    return sorted(str(Path(path).relative_to(build)) for path in built & needed)


def count_gtest(report):
    """(passed, [failed names], skipped) of a --gtest_output=json file."""
    passed, failed, skipped = 0, [], 0
    for suite in json.loads(report.read_text())["testsuites"]:
        for case in suite["testsuite"]:
            if case.get("failures"):
                failed.append(f"{suite['name']}.{case['name']}")
            elif case["result"] == "SKIPPED":
                skipped += 1
            elif case["status"] == "RUN":
                passed += 1
    return passed, failed, skipped


def run_executable(test, build, report, log):
    """One registered test. Returns (passed, [failed], skipped)."""
    environment = {**os.environ, **test["env"], "GTEST_OUTPUT": f"json:{report}"}
    with open(log, "wb") as output:
        try:
            status = subprocess.run(test["cmd"], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    cwd=test["workdir"] or build, env=environment, timeout=EXECUTABLE_TIMEOUT_S).returncode
        except subprocess.TimeoutExpired:
            return 0, [f"{test['name']}: hung, killed after {EXECUTABLE_TIMEOUT_S} s"], 0
        except OSError as error:
            return 0, [f"{test['name']}: cannot be run: {error}"], 0
    if not report.exists():
        return (1, [], 0) if status == 0 else (0, [f"{test['name']}: {status_text(status)}"], 0)
    passed, failed, skipped = count_gtest(report)
    if status != 0 and not failed:
        failed.append(f"{test['name']}: {status_text(status)} after its test cases")
    if passed + len(failed) + skipped == 0:
        failed.append(f"{test['name']}: has no test case")
    return passed, failed, skipped


def status_text(status):
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def tail(path, lines=40):
    return "".join(f"    {line}\n" for line in path.read_text(errors="replace").splitlines()[-lines:])


def finish_group(arguments, passed, failed, skipped, seconds):
    (arguments.results / f"{arguments.group}.json").write_text(
        json.dumps({"group": arguments.group, "passed": passed, "failed": failed, "skipped": skipped,
                    "seconds": round(seconds, 1)}))
    say(arguments, f"test: {arguments.group}: {passed} passed, {len(failed)} failed"
        + (f", {skipped} skipped" if skipped else ""))
    for name in failed:
        print(f"    FAILED {name}")


def run_meson_group(arguments):
    started = time.time()
    total_passed, total_failed, total_skipped = 0, [], 0

    def run_one(test):
        name = f"{arguments.group}-{test['name'].replace(' ', '_').replace('/', '_')}"
        log = arguments.results / f"{name}.log"
        return test["name"], log, run_executable(test, arguments.build, arguments.results / f"{name}.gtest.json", log)
    with ThreadPool(os.cpu_count()) as pool:
        tests = registered_tests(arguments.build, arguments.suites)
        for name, log, (passed, failed, skipped) in pool.imap(run_one, tests, chunksize=1):
            if failed:
                print(f"  {name} failed; the end of {log}:\n{tail(log)}", flush=True)
            total_passed, total_skipped = total_passed + passed, total_skipped + skipped
            total_failed += failed
    finish_group(arguments, total_passed, total_failed, total_skipped, time.time() - started)


def run_pytest(arguments, name, where):
    """One pytest process. Returns (log, (passed, [failed], skipped))."""
    report, log = arguments.results / f"{name}.xml", arguments.results / f"{name}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}", str(where)]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            status = process.wait(PYTEST_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # SIGTERM first: it takes its namespaces with it.
            status = None
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    passed, failed, skipped = 0, [], 0
    if report.exists():
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname')}.{case.get('name')}")
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    if status is None:
        failed.append(f"{name}: hung, killed after {PYTEST_TIMEOUT_S} s")
    elif status != 0 and not failed:
        failed.append(f"{name}: pytest ended with {status_text(status)}")
    return log, (passed, failed, skipped)


def run_pytest_group(arguments):
    started = time.time()
    total_passed, total_failed, total_skipped = 0, [], 0
    processes = [(arguments.group, arguments.folder)]
    if arguments.parallel:
        processes = [(f"{arguments.group}-{file.stem}", file) for file in sorted(arguments.folder.glob("test_*.py"))]
    with ThreadPool(os.cpu_count()) as pool:
        for log, (passed, failed, skipped) in pool.imap(lambda process: run_pytest(arguments, *process), processes, chunksize=1):
            if failed:
                print(f"  the end of {log}:\n{tail(log, 80)}", flush=True)
            total_passed, total_skipped = total_passed + passed, total_skipped + skipped
            total_failed += failed
    finish_group(arguments, total_passed, total_failed, total_skipped, time.time() - started)


def summarize(arguments):
    groups = [json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))
              if not path.name.endswith(".gtest.json")]
    print()
    for group in groups:
        print(f"  {group['group']:<12} {group['passed']:>5} passed {len(group['failed']):>3} failed"
              f" {group['skipped']:>3} skipped {group['seconds']:>7} s")
        for name in group["failed"]:
            print(f"    FAILED {name}")
    passed, failed = sum(group["passed"] for group in groups), sum(len(group["failed"]) for group in groups)
    say(arguments, "done")
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["targets", "meson", "pytest", "summary"])
    parser.add_argument("suites", nargs="*")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--started", type=float, default=time.time())
    parser.add_argument("--group")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--parallel", action="store_true")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "targets":
        print("\n".join(test_targets(arguments.build, arguments.suites)))
    elif arguments.what == "meson":
        run_meson_group(arguments)
    elif arguments.what == "pytest":
        run_pytest_group(arguments)
    else:
        return summarize(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
