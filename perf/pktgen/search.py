"""Searches for the highest rate: RFC 2544's binary search, and RFC 9971's multiple loss ratio search.

Pure logic: a rate is tried by calling measure(load_pps, seconds), which returns the trial's loss ratio; nothing here knows
how. The terms are RFC 9971's: a load is a Lower Bound for a goal when trials at it certainly keep to the goal's loss ratio,
an Upper Bound when they certainly do not, else Undecided.
"""

import math
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Goal:
    """RFC 9971, "Search Goal". `width` is relative: the search stops when upper <= lower * (1 + width)."""

    loss_ratio: float
    final_s: float = 1.0         # Goal Final Trial Duration
    duration_sum_s: float = 3.0  # Goal Duration Sum
    exceed_ratio: float = 0.5    # the RFC's recommendation
    initial_s: float = 0.25      # Goal Initial Trial Duration
    width: float = 0.01


@dataclass(frozen=True)
class Trial:
    load: float
    seconds: float
    loss_ratio: float


@dataclass
class GoalResult:
    """RFC 9971, "Goal Result". Irregular: a bound is missing (0), or the bounds are further apart than the width."""

    goal: Goal
    lower: float = 0.0
    upper: float = 0.0
    conditional: float = 0.0  # Conditional Throughput at the lower bound
    regular: bool = False
    trials: list = field(default_factory=list)  # of the whole search, shared by the goals


def classify(goal, trials):
    """"lower", "upper" or "undecided", from all trials at one load: RFC 9971, Appendix "Load Classification Code"."""
    sums = {(full, high): 0.0 for full in (True, False) for high in (True, False)}
    for trial in trials:
        sums[trial.seconds >= goal.final_s, trial.loss_ratio > goal.loss_ratio] += trial.seconds
    balance = sums[False, False] * goal.exceed_ratio / (1 - goal.exceed_ratio)
    high = sums[True, True] + max(0.0, sums[False, True] - balance)
    whole = max(sums[True, False] + high, goal.duration_sum_s)
    tolerated = whole * goal.exceed_ratio
    if whole - sums[True, False] <= tolerated:  # even if all that is missing were lossy
        return "lower"
    return "undecided" if high <= tolerated else "upper"


def conditional_throughput(goal, load, trials):
    """What is forwarded at a lower bound, by the trial at the exceed ratio's quantile of loss: RFC 9971, Appendix
    "Conditional Throughput Code"."""
    full = sorted((t for t in trials if t.seconds >= goal.final_s), key=lambda t: t.loss_ratio)
    remaining = max(goal.duration_sum_s, sum(t.seconds for t in full)) * (1 - goal.exceed_ratio)
    loss = 1.0
    for trial in full:
        if remaining <= 0 and loss < 1.0:
            break
        loss = trial.loss_ratio
        remaining -= trial.seconds
    else:
        loss = 1.0 if remaining > 0 else loss
    return load * (1 - loss)


class MlrSearch:
    """RFC 9971's Controller. All goals share all trials; the one in focus only says where and how long to try next.

    Each goal is approached by trials that get longer: from its initial to its final duration in steps of four, each step a
    search of its own in which one trial decides, and which begins at the bounds the shorter trials gave. Only the last step
    asks for the goal's duration sum. Where a bound is missing, the search goes away from the other one by steps that
    double; between two bounds it takes the middle.
    """

    STEP = 4.0
    TRIALS_MAX = 200  # a target that never answers the same way must not be asked for ever

    def __init__(self, measure, goals, min_load, max_load):
        self.measure, self.goals = measure, list(goals)
        self.min_load, self.max_load = min_load, max_load
        self.trials = {}  # load: [Trial]
        self.count = 0

    def run(self):
        """[GoalResult], in the order of the goals."""
        self._first_look()
        for goal in sorted(self.goals, key=lambda g: -g.loss_ratio):
            hint = (None, None)
            for phase in self._phases(goal):
                hint = self._narrow(phase, hint)
        # Trials for one goal count for all, and may have undone another's bounds.
        while self.count < self.TRIALS_MAX:
            undone = [goal for goal in self.goals if not self._is_done(goal, *self.bounds(goal))]
            if not undone:
                break
            self._narrow(undone[0], (None, None))
        return [self._result(goal) for goal in self.goals]

    def _try(self, load, seconds):
        load = min(max(load, self.min_load), self.max_load)
        # Rounded, so that trials at one load add up.
        load = float(f"{load:.5g}")
        trial = Trial(load, seconds, self.measure(load, seconds))
        self.trials.setdefault(load, []).append(trial)
        self.count += 1
        return trial

    def _first_look(self):
        """What is forwarded at the highest load is near all of the rates looked for."""
        shortest = min(g.initial_s for g in self.goals)
        trial = self._try(self.max_load, shortest)
        if trial.loss_ratio > 0:
            self._try(self.max_load * (1 - trial.loss_ratio), shortest)

    def _phases(self, goal):
        durations = [goal.final_s]
        while durations[-1] > goal.initial_s * 1.001:
            durations.append(max(goal.initial_s, durations[-1] / self.STEP))
        for seconds in reversed(durations[1:]):
            # Half as precise for each step that is still to come.
            steps_left = durations.index(seconds)
            yield replace(goal, final_s=seconds, duration_sum_s=seconds, initial_s=seconds, width=goal.width * 2**steps_left)
        yield goal

    def bounds(self, goal):
        """(Relevant Lower Bound, Relevant Upper Bound); None where there is none."""
        classes = {load: classify(goal, trials) for load, trials in self.trials.items()}
        upper = min((load for load, kind in classes.items() if kind == "upper"), default=None)
        lower = max((load for load, kind in classes.items() if kind == "lower" and (upper is None or load < upper)),
                    default=None)
        return lower, upper

    def _narrow(self, goal, hint):
        step = goal.width
        while self.count < self.TRIALS_MAX:
            lower, upper = self.bounds(goal)
            if self._is_done(goal, lower, upper):
                break
            load, step = self._choose(goal, lower, upper, hint, step)
            while self.count < self.TRIALS_MAX and self._class_of(goal, load) == "undecided":
                load = self._try(load, goal.final_s).load
        return self.bounds(goal)

    def _class_of(self, goal, load):
        return classify(goal, self.trials.get(load, []))

    def _is_done(self, goal, lower, upper):
        if upper is None:
            return lower is not None and lower >= float(f"{self.max_load:.5g}")
        if lower is None:
            return upper <= float(f"{self.min_load:.5g}")
        return upper <= lower * (1 + goal.width)

    def _choose(self, goal, lower, upper, hint, step):
        """(load to try, width of the next step away from a bound)"""
        inside = [load for load in hint if load is not None and (lower or 0) < load < (upper or math.inf)]
        for load in inside:
            if self._class_of(goal, load) == "undecided":
                return load, step
        if lower is None and upper is None:
            return max(self.trials, key=lambda load: (-min(t.loss_ratio for t in self.trials[load]), load)), step
        if lower is None:
            return max(self.min_load, upper / (1 + step)), step * 2
        if upper is None:
            return min(self.max_load, lower * (1 + step)), step * 2
        return math.sqrt(lower * upper), step

    def _result(self, goal):
        lower, upper = self.bounds(goal)
        every = [trial for trials in self.trials.values() for trial in trials]
        result = GoalResult(goal, lower or 0.0, upper or 0.0, trials=every)
        if lower is not None:
            result.conditional = conditional_throughput(goal, lower, self.trials[lower])
            result.regular = upper is not None and upper <= lower * (1 + goal.width)
        return result


def binary_search(measure, min_load, max_load, seconds, width=0.01):
    """RFC 2544 26.1: the highest rate at which no packet was lost in a trial of `seconds`, to within the relative `width`.
    0: not even at the lowest. Returns (load, trials)."""
    trials = []

    def keeps(load):
        trials.append(Trial(load, seconds, measure(load, seconds)))
        return trials[-1].loss_ratio == 0
    if keeps(max_load):
        return max_load, trials
    if not keeps(min_load):
        return 0.0, trials
    lower, upper = min_load, max_load
    while upper > lower * (1 + width):
        middle = math.sqrt(lower * upper) if upper > 4 * lower else (lower + upper) / 2
        if keeps(middle):
            lower = middle
        else:
            upper = middle
    return lower, trials
