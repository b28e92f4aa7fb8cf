#!/usr/bin/python3
"""What sluiced costs with many backends: its memory, and the time of a /metrics scrape; the real sluiced in a network
namespace of this script's own, without checks and without a data plane.

  perf/scrape.py BUILD [--services N] [--backends N] [--scrapes N] [--json]

BACKENDS are those of each service. Prints the scrape's time and size, the longest that another client of the control
socket waited meanwhile, and sluiced's memory. Needs root.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

NETNS = f"sluice-scrape-{os.getpid()}"
FOLDER = pathlib.Path("/dev/shm") / NETNS
HTTP = "127.0.0.1:9095"

# Runs in the namespace: one connection, kept alive, as scrapers do.
SCRAPER = """
import http.client, json, sys, time
connection = http.client.HTTPConnection("127.0.0.1", 9095, timeout=30)
times, size = [], 0
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    connection.request("GET", "/metrics")
    size = len(connection.getresponse().read())
    times.append(time.perf_counter() - began)
print(json.dumps({"times_s": times, "bytes": size}))
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--backends", type=int, default=10)
    parser.add_argument("--scrapes", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def configuration(services, backends):
    lines = ["[http]", f'listen = "{HTTP}"']
    for s in range(services):
        lines += ["[[service]]", f'name = "service-{s}"', f'vip = "203.0.{s >> 8}.{s & 255}"', "port = 80",
                  'protocol = "tcp"', 'forward = "ipip"', 'health = { type = "none" }']
        for b in range(backends):
            lines += ["[[service.backend]]", f'name = "backend-{b}"',
                      f'address = "{address(s * backends + b)}"']
    return "\n".join(lines) + "\n"


def make_network(backends):
    """Every backend is a neighbour, so that each service has its lookup table."""
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    lines = ["link set lo up", "link add eth0 type veth peer name other", "link set other up",
             "addr add 10.255.255.254/8 dev eth0", "link set eth0 up"]
    lines += [f"neigh add {address(n)} lladdr 02:00:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x} dev eth0 nud permanent"
              for n in range(backends)]
    subprocess.run(["ip", "-netns", NETNS, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def address(number):
    return f"10.{200 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def ask(build, *words):
    done = subprocess.run([build / "controlplane/sluice", "--dir", FOLDER, "--json", *words], capture_output=True, text=True,
                          check=False)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {}


def all_have_tables(build):
    services = ask(build, "show", "services").get("services", [])
    return bool(services) and all(s["table_checksum"] and s["backends_active"] == s["backends"] for s in services)


def longest_wait(done):
    """Of small requests on the control socket until `done` is set."""
    longest = 0.0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(FOLDER / "control.sock"))
        lines = connection.makefile("rb")
        while not done.is_set():
            began = time.perf_counter()
            connection.sendall(b'{"v":1,"cmd":"show.events","last":1}\n')
            lines.readline()
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.0005)
    return longest


def measure(options):
    (FOLDER / "scrape.toml").write_text(configuration(options.services, options.backends))
    inside = ["nsenter", f"--net=/run/netns/{NETNS}"]
    with open(FOLDER / "sluiced.log", "w", encoding="utf-8") as log:
        command = [options.build / "controlplane/sluiced", FOLDER / "scrape.toml", "--dir", FOLDER, "--state", FOLDER / "state"]
        sluiced = subprocess.Popen([*inside, *map(str, command)], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while not all_have_tables(options.build):
            if time.monotonic() > until or sluiced.poll() is not None:
                sys.exit("error: sluiced does not answer\n" + (FOLDER / "sluiced.log").read_text()[-2000:])
            time.sleep(0.1)
        done, waits = threading.Event(), []
        other = threading.Thread(target=lambda: waits.append(longest_wait(done)))
        other.start()
        scrape = json.loads(subprocess.run([*inside, sys.executable, "-c", SCRAPER, str(options.scrapes)], check=True,
                                           capture_output=True, text=True).stdout)
        done.set()
        other.join()
        memory = ask(options.build, "show", "generation")["memory"]
        return {**scrape, "longest_wait_s": waits[0], "memory": memory}
    finally:
        sluiced.send_signal(signal.SIGTERM)
        sluiced.wait(timeout=20)


def main():
    options = arguments()
    options.build = options.build.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the default action would leave everything as it is
    FOLDER.mkdir()
    try:
        make_network(options.services * options.backends)
        result = measure(options)
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=False)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.rmtree(pathlib.Path("/sys/fs/bpf/sluice") / str(FOLDER).strip("/").replace("/", "+"), ignore_errors=True)
    if options.json:
        print(json.dumps(result))
        return
    mib = lambda key: result["memory"][key] / (1 << 20)
    print(f"{options.services} services of {options.backends} backends: scrape of {result['bytes'] / 1e6:.1f} MB, median "
          f"{statistics.median(result['times_s']) * 1e3:.1f} ms, worst {max(result['times_s']) * 1e3:.1f} ms of "
          f"{options.scrapes}; longest wait of another client meanwhile {result['longest_wait_s'] * 1e3:.1f} ms")
    print(f"memory of sluiced: {mib('process_resident_bytes'):.1f} MiB resident, {mib('process_private_bytes'):.1f} MiB of "
          f"it its own; tables {mib('tables_used_bytes'):.1f} MiB")


if __name__ == "__main__":
    main()
