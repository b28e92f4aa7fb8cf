#!/usr/bin/python3
"""What client affinity is worth to backends that cache: hits of real nginx caches behind Sluice, of the same trace, with
new connections going round robin and with all of a client's going to one backend by consistent hashing (affinity = "client").

Backends are nginx with proxy_cache, one namespace each, in front of one origin (nginx, too). A cache holds as many pages
as its keys zone has place for, and forgets the least recently used one. A trace is a list of (user, page), replayed one request
after the other, each on a TCP connection of its own from the user's own address, so both replays are the same to the last request.
Caches are cold at the start of each. Hits are nginx's own $upstream_cache_status, and its misses the origin's requests.

The trace: users come with Zipf's law; each asks for one of his own pages (basket, mailbox, profile: nobody else's), or for a shared
one, both by Zipf's law, too. Every request is drawn anew: nobody stays for a visit, which would help both alike.

  perf/cache_gain.py BUILD [--traces N] [--requests N] [--users N] [--pages N] [--shared F] [--backends N] [--cache-kib N]
                     [--quick] [--no-huge] [--json]
"""

import argparse
import bisect
import collections
import ipaddress
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/system"))
# pylint: disable=wrong-import-position
from fabric import BACKENDS, CLIENTS, Fabric
from lab import LabError, ensure_bpffs, wait_until
from sluice import Balancer, service

# What is compared: the VIP, and what its service says.
METHODS = {"round-robin": ("203.0.113.10", 'method = "round-robin"'), "client": ("203.0.113.20", 'affinity = "client"')}
SPREAD, CONSISTENT = METHODS
SHARED_PAGES = 200
# Requests for web pages fall with their rank to a power of 0.64 to 0.83 (Breslau et al., Web Caching and Zipf-like
# Distributions, INFOCOM 1999).
ZIPF = 0.8
USERS_NET = ipaddress.ip_network("198.18.0.0/15")  # of benchmarks, RFC 2544
ORIGIN = ("origin", 100)

NGINX = """\
daemon off;
worker_processes 1;
user root;  # the folder is root's alone
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format cache '$remote_addr $status $upstream_cache_status $uri';
  access_log {folder}/access.log cache;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  {more}
}}
"""
ORIGIN_SERVER = 'server {{ listen 80; location / {{ return 200 "$uri {padding}\\n"; }} }}'
# A page that is not the user's own is nobody's secret: the key is the URI alone.
CACHE_SERVER = """\
proxy_cache_path {folder}/cache levels=1 keys_zone=pages:{kib}k inactive=1d use_temp_path=off;
  upstream origin {{ server 10.0.1.{origin}:80; keepalive 4; }}
  server {{
    listen 80 backlog=4096;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache pages; proxy_cache_key $uri; proxy_cache_valid 200 1d;
    }}
  }}"""

# Runs in the client's namespace, with VIP and the trace's file: "ADDRESS PATH" a line.
REPLAY = """
import socket, sys
vip, trace = sys.argv[1:]
for line in open(trace, encoding="ascii"):
    address, path = line.split()
    with socket.socket() as connection:
        connection.settimeout(10)
        connection.bind((address, 0))
        connection.connect((vip, 80))
        connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {vip}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        answer = b""
        while more := connection.recv(65536):
            answer += more
    if not answer.startswith(b"HTTP/1.1 200 ") or f"\\r\\n\\r\\n{path} ".encode() not in answer:
        sys.exit(f"{address} {path}: {answer[:200]}")
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    parser.add_argument("--traces", type=int, default=3, help="each with a seed of its own")
    parser.add_argument("--requests", type=int, default=20000, help="of a trace")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--pages", type=int, default=8, help="of each user")
    parser.add_argument("--shared", type=float, default=0.1, help=f"share of requests for one of {SHARED_PAGES} shared pages")
    parser.add_argument("--backends", type=int, default=6)
    parser.add_argument("--cache-kib", type=int, default=64, help="keys zone of each cache: some 30 pages in 4 KiB")
    parser.add_argument("--quick", action="store_true", help="one small trace: does it work?")
    parser.add_argument("--no-huge", action="store_true", help="sluice-dataplane without hugepages")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args()
    if options.quick:
        options.traces, options.requests, options.users, options.backends, options.cache_kib = 1, 3000, 300, 4, 32
    if not len(BACKENDS) <= options.backends < 80 or options.users * options.traces > USERS_NET.num_addresses - 256:
        parser.error(f"{len(BACKENDS)} to 79 backends, at most {USERS_NET.num_addresses - 256} users in all traces")
    return options


class CacheFabric(Fabric):
    """The fabric with more backends, an origin, and a client host that has the addresses of all users."""

    def __init__(self, options):
        super().__init__(f"sluice-cache-{os.getpid()}")
        self.backends = {f"b{n}": f"10.0.1.{10 + n}" for n in range(1, options.backends + 1)}
        self.kib = options.cache_kib
        for name, address in self.backends.items():
            if name not in BACKENDS:
                self.add_host(name)
                self._connect_to_switch(name, int(address.rsplit(".", 1)[1]))
                self._add_vips(name)
        self.add_host(ORIGIN[0])
        self._connect_to_switch(*ORIGIN)
        self.hosts["net"].ip(f"route add {USERS_NET} via {CLIENTS['c1'][0]}")
        self.hosts["c1"].ip(f"route add local {USERS_NET} dev lo")
        self.start_server(ORIGIN[0], ORIGIN_SERVER.format(padding="x" * 1000))

    def start_server(self, name, more):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, more=more))
        (folder / "access.log").unlink(missing_ok=True)
        self.nginx[name] = self.hosts[name].start("nginx", ["nginx", "-c", folder / "nginx.conf", "-p", folder])
        self.wait_listening(name, 80, self.nginx[name])

    def cool_caches(self):
        """Every backend's nginx anew, without its cache."""
        for name in self.backends:
            if name in self.nginx:
                self.nginx[name].stop()
                shutil.rmtree(self.folder / name / "cache")
            self.start_server(name, CACHE_SERVER.format(folder=self.folder / name, kib=self.kib, origin=ORIGIN[1]))

    def log(self, name):
        """[(client, status, cache status, URI)]; the log is written before a connection is closed."""
        path = self.folder / name / "access.log"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []

    def pages_held(self, name):
        return sum(1 for path in (self.folder / name / "cache").rglob("*") if path.is_file())


def zipf(count):
    """A function that draws a rank below `count`, the n-th with a weight of n to the power of -ZIPF."""
    cumulative = list(itertools.accumulate((n + 1) ** -ZIPF for n in range(count)))
    return lambda chance: bisect.bisect(cumulative, chance.random() * cumulative[-1])


def make_trace(seed, options):
    """[(address, path)]. Users of different seeds have different addresses: nothing remembers them."""
    chance = random.Random(seed)
    user, own, shared = zipf(options.users), zipf(options.pages), zipf(SHARED_PAGES)
    addresses = [str(USERS_NET[256 + (seed - 1) * options.users + n]) for n in range(options.users)]
    chance.shuffle(addresses)  # an address says nothing about how often it comes
    trace = []
    for _ in range(options.requests):
        address = addresses[user(chance)]
        path = f"/shared/{shared(chance)}" if chance.random() < options.shared else f"/of/{address}/{own(chance)}"
        trace.append((address, path))
    return trace


def replay(fabric, balancer, method, trace):
    """Hits, and how the requests were spread."""
    fabric.cool_caches()
    balancer.wait_ready()
    path = fabric.folder / "trace"
    path.write_text("".join(f"{address} {uri}\n" for address, uri in trace))
    origin_before = len(fabric.log(ORIGIN[0]))
    fabric.hosts["c1"].run("/usr/bin/python3", "-c", REPLAY, METHODS[method][0], path, timeout=600)
    logs = {name: fabric.log(name) for name in fabric.backends}
    fetched = len(fabric.log(ORIGIN[0])) - origin_before
    statuses = collections.Counter(status for log in logs.values() for _, _, status, _ in log)
    if sum(statuses.values()) != len(trace) or set(statuses) - {"HIT", "MISS"} or statuses["MISS"] != fetched:
        raise LabError(f"{method}: {len(trace)} requests, nginx says {dict(statuses)}, the origin was asked {fetched} times")
    backends_of = collections.defaultdict(set)
    for name, log in logs.items():
        for address, *_ in log:
            backends_of[address].add(name)
    return {
        "requests": len(trace), "hits": statuses["HIT"], "hit_rate": statuses["HIT"] / len(trace),
        "backends_of_a_user": statistics.mean(map(len, backends_of.values())),
        "backends": {name: {"requests": len(log), "hits": sum(status == "HIT" for _, _, status, _ in log),
                            "pages_held": fabric.pages_held(name)} for name, log in logs.items()},
    }


def measure(options):
    with CacheFabric(options) as fabric:
        backends = {name: (address, 100) for name, address in fabric.backends.items()}
        balancer = Balancer(fabric, "".join(service(name, vip, "l2dsr", backends, health='{ type = "none" }', more=more)
                                            for name, (vip, more) in METHODS.items()))
        balancer.start_dataplane()
        balancer.start_sluiced()
        runs = []
        for seed in range(1, options.traces + 1):
            trace = make_trace(seed, options)
            order = list(METHODS) if seed % 2 else list(reversed(METHODS))
            runs.append({"seed": seed, "pages_asked": len({uri for _, uri in trace}),
                         **{method: replay(fabric, balancer, method, trace) for method in order}})
            runs[-1]["gain"] = runs[-1][CONSISTENT]["hits"] / max(runs[-1][SPREAD]["hits"], 1)
        return runs


def table(result):
    options, runs = result["options"], result["runs"]
    held = statistics.mean(backend["pages_held"] for run in runs for method in METHODS for backend in run[method]["backends"].values())
    lines = [f"{options['backends']} nginx caches of {held:.0f} pages; {options['requests']} requests of {options['users']} users with "
             f"{options['pages']} pages each, {options['shared']:.0%} for {SHARED_PAGES} shared ones", "",
             "| trace | pages asked | method | hits | hit rate | gain | requests a backend | hit rate a backend | backends a user saw |",
             "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for run in runs:
        for method in METHODS:
            figures = run[method]
            requests = [backend["requests"] for backend in figures["backends"].values()]
            rates = [backend["hits"] / max(backend["requests"], 1) for backend in figures["backends"].values()]
            gain = f"{run['gain']:.2f}" if method == CONSISTENT else ""
            lines.append(f"| {run['seed']} | {run['pages_asked']} | {method} | {figures['hits']} | {figures['hit_rate']:.1%} | {gain} | "
                         f"{min(requests)} to {max(requests)} | {min(rates):.1%} to {max(rates):.1%} | "
                         f"{figures['backends_of_a_user']:.2f} |")
    gain = result["gain"]
    lines += ["", f"by {CONSISTENT}, consistent hashing: {gain['median']:.2f} x the hits of by {SPREAD} (median of {len(runs)} traces; "
                  f"{gain['min']:.2f} to {gain['max']:.2f})"]
    return "\n".join(lines)


def main():
    options = arguments()
    os.environ["SLUICE_BUILD"] = str(options.build.resolve())
    if options.no_huge:
        os.environ["SLUICE_NO_HUGE"] = "1"
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))  # Lab sees to SIGTERM
    ensure_bpffs()
    try:
        runs = measure(options)
    except LabError as error:
        sys.exit(f"error: {error}")
    gains = [run["gain"] for run in runs]
    result = {"options": {name: value for name, value in vars(options).items() if name not in ("build", "json", "no_huge")},
              "zipf": ZIPF, "runs": runs, "gain": {"median": statistics.median(gains), "min": min(gains), "max": max(gains)}}
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
