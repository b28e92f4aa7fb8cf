"""Clients: curl and wrk as users run them, keep-alive connections that remember who answered, and what chance allows."""

import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

from lab import LabError

HERE = Path(__file__).resolve().parent


def url(vip, path="/", port=80):
    return f"http://[{vip}]:{port}{path}" if ":" in vip else f"http://{vip}:{port}{path}"


class CurlResults:
    """What a run of curl over many connections saw."""

    def __init__(self, lines):
        self.answers = [line.split() for line in lines]
        self.failures = [answer for answer in self.answers if answer[0] != "200" or answer[1] != "0"]
        self.by_backend = Counter(answer[2] for answer in self.answers if answer not in self.failures)
        self.total = len(self.answers)


def curl_many(host, vip, count, path="/", parallel=32, timeout_s=120, max_time_s=10, source=None):
    """`count` requests, each on a connection of its own.

    To judge the spread, give a `source` address that was not used before: a client avoids the ports that its earlier
    connections to the VIP left in TIME_WAIT, and which those are depends on the backend, so the rest is no fair sample.
    """
    # [1-N] is curl's own counter; the fragment is not sent.
    result = host.run("curl", "-s", "-Z", "--parallel-max", parallel, "--max-time", max_time_s,
                      *(("--interface", source) if source else ()), "-H", "Connection: close", "-o", "/dev/null",
                      "-w", "%{http_code} %{exitcode} %header{x-backend}\n", f"{url(vip, path)}#[1-{count}]",
                      check=False, timeout=timeout_s)
    return CurlResults(line for line in result.stdout.splitlines() if line.strip())


def curl_once(host, vip, path="/", *options, timeout_s=30):
    """(HTTP status or 0, backend's name or "")."""
    result = host.run("curl", "-s", "--max-time", timeout_s - 5, *options, "-o", "/dev/null",
                      "-w", "%{http_code} %header{x-backend}", url(vip, path), check=False, timeout=timeout_s)
    fields = result.stdout.split()
    return int(fields[0]) if fields else 0, fields[1] if len(fields) > 1 else ""


class Wrk:
    """wrk in the background; finish() waits for its end."""

    def __init__(self, host, vip, seconds, connections, new_connections, path="/"):
        """new_connections: a connection a request; else they are kept alive."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
        if new_connections:
            command += ["-H", "Connection: close"]
        self.process = host.start(f"wrk-{id(self)}", [*command, url(vip, path)])
        self.seconds = seconds
        self.requests = self.failed = 0

    def finish(self):
        self.process.wait(self.seconds + 30)
        output = self.process.output()
        requests = re.search(r"(\d+) requests in", output)
        if not requests:
            raise LabError(f"wrk: {output}")
        self.requests = int(requests[1])
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        self.failed = sum(map(int, errors.groups())) if errors else 0
        bad_status = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        self.failed += int(bad_status[1]) if bad_status else 0
        return self


class KeepAlive:
    """Connections that stay open, ask again and again, and note which backend answered (keepalive_client.py)."""

    def __init__(self, host, vip, connections=50, pause_ms=20, port=80, sources=()):
        self.host = host
        self.process = host.start(f"keepalive-{id(self)}",
                                  [sys.executable, HERE / "keepalive_client.py", vip, port, connections, pause_ms, *sources])

    def finish(self):
        """Ends it. A list with one entry a connection: {"requests": n, "backends": [...], "error": text or null}."""
        status = self.process.stop()
        lines = [line for line in self.process.output().splitlines() if line.startswith("{")]
        if status != 0 or not lines:
            raise LabError(f"keepalive_client.py: exit {status}\n{self.process.output()}")
        return json.loads(lines[-1])["connections"]


# ---- What chance allows -------------------------------------------------------------------------------------------------


class Spread:
    """Counts of connections against weights: is the difference what chance makes of a multinomial draw?

    Two tests. Each backend: within 3 standard deviations, sqrt(n p (1 - p)), of its expectation n p. All together:
    Pearson's chi-square, its probability under the weights at least 0.001.
    """

    def __init__(self, counts, weights):
        total_weight = sum(weights.values())
        self.total = sum(counts.values())
        self.rows = []
        self.chi_square = 0.0
        for name, weight in weights.items():
            share = weight / total_weight
            expected = self.total * share
            deviation = math.sqrt(self.total * share * (1 - share))
            count = counts.get(name, 0)
            if expected > 0:
                self.rows.append((name, count, expected, (count - expected) / deviation if deviation else 0.0))
                self.chi_square += (count - expected) ** 2 / expected
        self.strangers = sorted(set(counts) - {row[0] for row in self.rows})
        self.probability = chi_square_survival(self.chi_square, len(self.rows) - 1)

    @property
    def ok(self):
        return not self.strangers and all(abs(row[3]) <= 3 for row in self.rows) and self.probability >= 0.001

    def text(self):
        rows = ", ".join(f"{name} {count} (expected {expected:.0f}, {sigma:+.1f} sd)"
                         for name, count, expected, sigma in self.rows)
        strangers = f"; unexpected: {' '.join(self.strangers)}" if self.strangers else ""
        return f"{rows}; chi-square {self.chi_square:.2f}, p = {self.probability:.3f}{strangers}"


def chi_square_survival(value, degrees):
    """P(X >= value): the regularized upper incomplete gamma function Q(degrees/2, value/2), by its series."""
    if value <= 0 or degrees < 1:
        return 1.0
    shape, x = degrees / 2, value / 2
    term = total = 1 / shape
    for n in range(1, 10_000):
        term *= x / (shape + n)
        total += term
        if term < total * 1e-15:
            break
    lower = total * math.exp(-x + shape * math.log(x) - math.lgamma(shape))
    return max(0.0, 1.0 - lower)
