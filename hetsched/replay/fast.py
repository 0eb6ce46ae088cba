"""Fast replay: strategies whose decisions do not depend on time are counted, then priced; equal to simulate().

Where every step is one token, nothing is prefetched and every fetch ends within its layer, a layer's time depends only
on how many of its experts were there, were fetched, and ran on the CPU. Each such case runs once through the Timeline.
Shapes: S steps, L layers, K top-k, C cases (hits * (K + 1) + fetched), T tokens counted at once.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..policies.misses import Counts, decision
from ..policy import Policy, Setting, View
from ..residency import Residency
from ..scheduler import Scheduler
from ..stats import RunStats
from ..traces.trace import RoutingTrace
from ..types import Demand, ExpertId, IntArray, LinkState, Outcome, Phase, Plan
from .simulator import Progress, Replay, check_shape
from .steps import Steps
from .timeline import Timeline

TOKENS_AT_ONCE = 8192
TIMES = ("dense_s", "host_s", "makespan_s", "gpu_s", "cpu_s", "link_s", "stall_s")  # of an Outcome, summed by RunStats


@runtime_checkable
class Countable(Protocol):
    """What a policy offers besides Policy to be replayed fast.

    Its `plan` must be `misses.decision` with as many fetches as counted, the same for any link and any time, and its
    `prefetch` empty.
    """

    def counts(self, experts_TLK: npt.NDArray[np.integer], residency: Residency) -> Counts | None:
        """Counts of the next T tokens, one a step, going on from the last call; None where it cannot count.

        `experts_TLK`: distinct experts of each token and layer. `residency`: as it was before the first call.
        """
        ...


def fast_replay(
    trace: RoutingTrace,
    steps: Steps,
    scheduler: Scheduler,
    charge_s: float,
    progress: Progress | None = None,
    host_s: float = 0.0,
) -> Replay | None:
    """What simulate() gives for a scheduler whose clock charges `charge_s` a decision; None where it does not apply.

    It applies to a fresh scheduler with a countable policy, for steps of one token. Sums differ from simulate() by
    rounding. The scheduler's statistics are filled; its residency is not followed, so it serves for this replay only.
    Raises InputError where trace and model differ in shape.
    """
    shape, policy, stats = scheduler.geometry, scheduler.policy, scheduler.stats
    check_shape(trace, shape.num_layers, shape.num_experts, shape.name)
    fresh = stats.layers == 0 and not (steps.count and np.any(steps.end_S - steps.begin_S != 1))
    if not (fresh and isinstance(policy, Countable) and counts_are_its_own(policy)):
        return None
    prices = _Prices(scheduler, trace.top_k, charge_s, host_s)
    step_s_S = np.zeros(steps.count)
    for first in range(0, steps.count, TOKENS_AT_ONCE):
        chunk = slice(first, first + TOKENS_AT_ONCE)
        counts = policy.counts(trace.experts_TLK[steps.begin_S[chunk]], scheduler.residency)
        if counts is None:
            return None
        step_s_S[chunk] = prices.seconds_T(counts)
        stats.hits += int(counts.hits_TL.sum())
        stats.demanded_fetches += int(counts.fetched_TL.sum())
        stats.evictions += int(counts.evicted_TL.sum())
        if progress is not None:
            progress(min(first + TOKENS_AT_ONCE, steps.count), steps.count)
    decoded_S = steps.phase_S != Phase.PREFILL
    stats.steps = stats.tokens = steps.count
    stats.layers = steps.count * shape.num_layers
    stats.active = stats.layers * trace.top_k
    stats.decode_tokens = int(decoded_S.sum())
    stats.decode_s = float(step_s_S[decoded_S].sum())
    prices.fill(stats)
    return Replay(stats, step_s_S)


def counts_are_its_own(policy: Policy) -> bool:
    """Whether `counts` speaks for `plan`: a subclass that plans anew must count anew, or not at all."""
    order = type(policy).__mro__

    def place(method: str) -> int:
        return next((i for i, cls in enumerate(order) if method in vars(cls)), len(order))

    return all(place("counts") <= place(method) for method in ("plan", "observe", "prefetch"))


class _Case(NamedTuple):
    """A layer's outcome and the seconds that the policy expected of its experts."""

    outcome: Outcome
    predicted_s: float


class _Prices:
    """Seconds of each case that occurs, and how often it did."""

    def __init__(self, scheduler: Scheduler, top_k: int, charge_s: float, host_s: float) -> None:
        self._scheduler = scheduler
        self._top_k = top_k
        self._charge_s, self._host_s = charge_s, host_s
        self._times_C: IntArray = np.zeros((top_k + 1) ** 2, np.int64)
        self._layer_s_C = np.zeros(len(self._times_C))
        self._cases: dict[int, _Case] = {}

    def seconds_T(self, counts: Counts) -> npt.NDArray[np.float64]:
        """Seconds of each token's step."""
        case_TL = counts.hits_TL * (self._top_k + 1) + counts.fetched_TL
        times_C = np.bincount(case_TL.reshape(-1), minlength=len(self._times_C))
        for case in np.flatnonzero(times_C).tolist():
            if case not in self._cases:
                self._cases[case] = self._run(*divmod(case, self._top_k + 1))
                self._layer_s_C[case] = self._cases[case].outcome.layer_s
        self._times_C += times_C
        seconds_T: npt.NDArray[np.float64] = self._layer_s_C[case_TL].sum(axis=1)
        return seconds_T

    def fill(self, stats: RunStats) -> None:
        """Add the seconds of all layers."""
        for case, (outcome, predicted_s) in self._cases.items():
            times = int(self._times_C[case])
            for name in TIMES:
                setattr(stats, name, getattr(stats, name) + times * getattr(outcome, name))
            stats.predicted_s += times * predicted_s
        stats.decision_s += stats.layers * self._charge_s
        stats.overlapped_s += stats.layers * self._charge_s

    def _run(self, hits: int, fetched: int) -> _Case:
        """One layer on an idle machine, as simulate() runs it."""
        scheduler, top_k = self._scheduler, self._top_k
        cost = scheduler.cost
        residency = Residency(1, top_k, top_k)
        residency.fill(ExpertId(0, e) for e in range(hits))
        demand = Demand.listed(0, 0, Phase.DECODE, list(range(top_k)), [1] * top_k, 1, top_k)
        machine = Setting(scheduler.geometry, cost, scheduler.residency.num_slots, scheduler.guard)
        places = {ExpertId(0, e): None for e in range(hits, hits + fetched)}
        made = decision(demand, View(residency, LinkState()), machine, dict(places))
        plan = Plan(demand, made.runs, made.fetches, (), made.predicted_s, self._charge_s)
        timeline, dense_s = Timeline(cost), cost.dense_s(1)
        timeline.pass_s(dense_s + self._host_s + self._charge_s)
        timeline.begin(plan)
        timeline.prefetch((), self._charge_s)
        return _Case(timeline.end(dense_s)._replace(host_s=self._host_s), made.predicted_s)
