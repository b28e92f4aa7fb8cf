"""What is measured of one target: throughput, the searches, latency. Each returns rows for the report.

A row is {name, cycles, ns, per_second, floor_cycles, ratio, spread, ...}: `cycles` are the target's own core's for a packet
(TSC cycles, turns of its loop that had packets), per_second its rate, spread (max - min) / median over the repeats.
"""

import statistics
import sys

from search import Goal, MlrSearch, binary_search

OFFERED_SHARE_MIN = 0.99  # of a trial's packets; below, the generator is too slow for the rate
GENERATOR_LIMITED_FILL = 0.5  # mean share of the target's receive ring in use: below, it had nothing to do at times
FILL_TIMEOUT_S = 600.0
LATENCIES = ("p50", "p90", "p99", "p99_9", "p99_99", "max")


def say(text):
    print(text, file=sys.stderr, flush=True)


class Measurement:
    """Trials of one kind of traffic at one target, and what must never happen in any of them."""

    def __init__(self, target, prefix, traffic):
        self.target, self.prefix, self.traffic = target, prefix, traffic
        self.faults = []
        self.generator_limited = False

    def _check(self, answer):
        for what in ("corrupt", "misdelivered", "moved", "mbufs_missing"):
            if answer[what] != 0:
                self.faults.append(f"{self.prefix}: {answer[what]} packets {what.replace('_', ' ')}")
        return answer

    def trial(self, **wanted):
        return self._check(self.target.run(**{**self.traffic, **wanted}))

    def fill(self):
        """Two packets of every flow, so that all are tracked and confirmed."""
        flows = self.traffic["flows"]
        # What is filled in is no flood, and nothing ends.
        self.trial(order="sequential", packets=2 * flows, seconds=FILL_TIMEOUT_S, churn=0, syn_flood=0, frame=64, forget=True)
        self.target.cycles()

    # ---- Throughput --------------------------------------------------------------------------------------------------

    def throughput(self, repeats, seconds):
        """As fast as the target takes packets; none can be lost for want of room, it is waited for."""
        self.trial(seconds=seconds / 2)
        self.target.cycles()
        rates, cycles, fills, interruptions = [], [], [], self.target.interruptions()
        for number in range(repeats):
            answer = self.trial(seconds=seconds, seed=number + 1)
            spent, packets = self.target.cycles()
            rates.append(answer["received_per_second"])
            cycles.append(spent / max(1, packets))
            fills.append(answer["ring_fill"])
            if answer["lost"] != 0:
                self.faults.append(f"{self.prefix}/throughput: {answer['lost']} packets lost although they were waited for")
        self.generator_limited = statistics.median(fills) < GENERATOR_LIMITED_FILL
        rate, core = statistics.median(rates), statistics.median(cycles)
        hz = answer["tsc_hz"]
        return {"name": f"{self.prefix}/throughput", "cycles": core, "ns": core / hz * 1e9, "per_second": rate,
                "floor_cycles": None, "ratio": None, "spread": (max(rates) - min(rates)) / rate,
                "cycles_spread": (max(cycles) - min(cycles)) / core, "tsc_cycles_per_packet": hz / rate,
                "limited_by": "generator" if self.generator_limited else "target", "ring_fill": statistics.median(fills),
                "interruptions_per_second": (self.target.interruptions() - interruptions) / (repeats * seconds),
                "repeats": repeats, "tsc_hz": hz}

    # ---- Searches ----------------------------------------------------------------------------------------------------

    def loss_ratio(self, load, seconds):
        """A paced trial. What the generator was too slow to offer counts as lost, as RFC 9971 recommends ("Measurer": a
        severe deviation of the offered load becomes loss); the time that its CPU was taken away is added to the trial."""
        answer = self.trial(rate=round(load), seconds=seconds)
        intended = answer["sent"] + answer["late_packets"]
        too_slow = answer["sent"] < OFFERED_SHARE_MIN * intended
        lost = answer["lost"] + (answer["late_packets"] if too_slow else 0)
        held_up = f", held up for {answer['held_up_us'] / 1e3:.1f} ms" if answer["held_up_us"] > 1e4 * seconds else ""
        say(f"  {load / 1e6:8.3f} Mpps {seconds:5.2f} s: {lost} lost of {intended}"
            + (", generator too slow" if too_slow else "") + held_up)
        return lost / max(1, intended)

    def _rate_row(self, name, rate, hz, **more):
        cycles = hz / rate if rate else None
        return {"name": f"{self.prefix}/{name}", "cycles": cycles, "ns": 1e9 / rate if rate else None, "per_second": rate,
                "floor_cycles": None, "ratio": None, "spread": None, **more}

    def rfc2544(self, max_load, seconds, hz):
        rate, trials = binary_search(self.loss_ratio, max_load / 1000, max_load, seconds)
        return self._rate_row("rfc2544", rate, hz, trial_s=seconds, trials=len(trials))

    def mlr(self, max_load, initial_s, final_s, hz):
        """RFC 9971, two goals at once: nothing lost, and at most 0.5 %."""
        goals = [Goal(ratio, final_s=final_s, duration_sum_s=3 * final_s, initial_s=initial_s) for ratio in (0.0, 0.005)]
        rows = []
        for result in MlrSearch(self.loss_ratio, goals, max_load / 1000, max_load).run():
            rows.append(self._rate_row(
                f"mlr/{100 * result.goal.loss_ratio:g}", result.conditional, hz, lower=result.lower, upper=result.upper,
                regular=result.regular, goal={"loss_ratio": result.goal.loss_ratio, "exceed_ratio": result.goal.exceed_ratio,
                                              "final_s": final_s, "duration_sum_s": 3 * final_s, "width": result.goal.width},
                trials=len(result.trials), searched_s=sum(t.seconds for t in result.trials)))
        return rows

    def latency(self, rate, seconds):
        rows = []
        for percent in (10, 50, 90):
            answer = self.trial(rate=max(1000, round(rate * percent / 100)), seconds=seconds)
            latencies = {f"{key}_ns": answer["latency_ns"][key] for key in LATENCIES}
            row = self._rate_row(f"latency/{percent}", rate * percent / 100, answer["tsc_hz"], **latencies,
                                 lost=answer["lost"], sent=answer["sent"], of_rate=rate,
                                 histogram_ns=answer["latency_histogram_ns"])
            # What a packet waits is no cost of the target: these rows have a rate and latencies.
            row["cycles"], row["ns"] = None, latencies["p50_ns"]
            rows.append(row)
        return rows
