"""Simulator: replays a routing trace through a Scheduler on a virtual machine, layer by layer. Deterministic.

Shapes: S steps, L layers, T tokens of a step, K top-k, E experts, N active experts, C counts of a board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..board import COUNTS, STEP
from ..errors import InputError
from ..scheduler import Scheduler
from ..stats import RunStats
from ..traces.trace import RoutingTrace
from ..types import Demand, Float32Array, FloatArray, IntArray, Phase
from .steps import Steps, new_requests
from .timeline import Timeline

if TYPE_CHECKING:
    from ..deciders.compiled import CompiledDecider

CHECK_EVERY = 32  # layers between two checks of the residency's invariants
STEPS_AT_ONCE = 64  # in one compiled call
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Replay:
    """What a replay came to: sums over all layers; the seconds of each step [S], host time counted.

    `counts_SC`: the board's counts (N_HITS and others of board) as they stood after each step.
    """

    stats: RunStats
    step_s_S: FloatArray
    counts_SC: IntArray

    @property
    def step_s(self) -> float:
        """Mean seconds of a step."""
        return float(self.step_s_S.mean()) if len(self.step_s_S) else 0.0


class ConstantClock:
    """A clock for reproducible replays: what deciding takes is a constant, whatever the host needed for it.

    `charge_s` before the experts run, `beside_s` (None: the same) while they do, for learning and choosing copies.
    """

    def __init__(self, charge_s: float, beside_s: float | None = None) -> None:
        self.charge_s = charge_s
        self.beside_s = charge_s if beside_s is None else beside_s
        self._calls, self._now_s = 0, 0.0

    def __call__(self) -> float:
        """The ends of spans are one charge after their beginnings; spans before and beside the experts take turns."""
        self._calls += 1
        if self._calls % 2 == 0:
            self._now_s += self.charge_s if self._calls % 4 else self.beside_s
        return self._now_s


def simulate(
    trace: RoutingTrace, steps: Steps, scheduler: Scheduler, progress: Progress | None = None, host_s: float = 0.0
) -> Replay:
    """Replay `steps` of a trace: the same Scheduler, Policy, Forecaster and Solver that run in a model.

    `host_s`: what the engine itself takes for each layer before its decision; copies go on meanwhile. Where scheduler,
    policy and solver are compiled and decisions are charged a constant, the replay is one compiled loop over the same
    kernels; else layer by layer in Python.
    Raises InputError where trace and model differ in shape, and ResidencyError or PlanError where a policy breaks its
    contract.
    """
    shape = scheduler.geometry
    check_shape(trace, shape.num_layers, shape.num_experts, shape.name)
    parts = compiled_parts(scheduler)
    if parts is None:
        step_s_S, counts_SC = _run(trace, steps, scheduler, host_s, progress)
    else:
        step_s_S, counts_SC = _run_compiled(trace, steps, scheduler, parts, host_s, progress)
    scheduler.drop_copies()  # what is under way goes with the timeline
    scheduler.residency.check()
    return Replay(scheduler.stats, step_s_S, counts_SC)


def compiled_parts(scheduler: Scheduler) -> tuple[CompiledDecider, ConstantClock] | None:
    """What a replay in one compiled loop needs; None where something in Python has a say."""
    from ..deciders.compiled import CompiledDecider  # numba takes long to import

    decider, clock = scheduler.decider, scheduler.clock
    if type(scheduler) is not Scheduler or not isinstance(clock, ConstantClock) or scheduler.stats.layers:
        return None
    if scheduler.tells_outcomes:
        return None
    return (decider, clock) if isinstance(decider, CompiledDecider) and decider.calls.is_whole else None


def _run_compiled(
    trace: RoutingTrace,
    steps: Steps,
    scheduler: Scheduler,
    parts: tuple[CompiledDecider, ConstantClock],
    host_s: float,
    progress: Progress | None,
) -> tuple[FloatArray, IntArray]:
    """Seconds of each step and counts after it, in compiled calls of some steps each."""
    from .line import new_line
    from .loop import compiled_replay

    (decider, clock), step_s_S, counts_SC = parts, np.zeros(steps.count), np.zeros((steps.count, COUNTS), np.int64)
    calls, charge_3 = decider.calls, np.array([clock.charge_s, clock.beside_s, host_s])
    scheduler.board.at[STEP] = -1
    fixed = (
        *scheduler.arrays,
        scheduler.seconds.table(int((steps.end_S - steps.begin_S).max(initial=1))),
        calls.kernels.own,
        calls.kernels.known,
        new_line(scheduler.residency.state_LE.size, scheduler.board.machine),
        trace.experts_TLK,
    )
    replay, new_S = compiled_replay(calls), new_requests(trace, steps)
    for first in range(0, steps.count, STEPS_AT_ONCE):
        span = slice(first, first + STEPS_AT_ONCE)
        begin_S, end_S = steps.begin_S[span], steps.end_S[span]
        phases = steps.phase_S[span].astype(np.uint8)
        asked = _weights(trace, scheduler, begin_S, end_S), begin_S, end_S, phases, new_S[span]
        decider.refuse(replay(*fixed, *asked, charge_3, scheduler.pace.numbers_P, step_s_S[span], counts_SC[span]))
        scheduler.residency.check()
        if progress is not None:
            progress(min(first + STEPS_AT_ONCE, steps.count), steps.count)
    return step_s_S, counts_SC


def _weights(trace: RoutingTrace, scheduler: Scheduler, begin_S: IntArray, end_S: IntArray) -> Float32Array:
    """Router weights of these steps' tokens; of none where the policy does not look at them, or there are none."""
    shape = (0, trace.num_layers, trace.top_k)
    if not scheduler.traits.uses_weights or trace.weights_TLK is None:
        return np.zeros(shape, np.float32)
    return trace.weights_TLK[int(begin_S[0]) : int(end_S[-1])].astype(np.float32)


def _run(
    trace: RoutingTrace, steps: Steps, scheduler: Scheduler, host_s: float, progress: Progress | None
) -> tuple[FloatArray, IntArray]:
    """Seconds of each step and counts after it, layer by layer."""
    step_s_S, counts_SC = np.zeros(steps.count), np.zeros((steps.count, COUNTS), np.int64)
    timeline, cost, since_check = Timeline(scheduler.cost), scheduler.cost, 0
    for s, layers in enumerate(demands(trace, steps, scheduler.traits.uses_weights)):
        begin_s = timeline.now_s
        for demand in layers:
            dense_s = cost.dense_s(demand.num_tokens)
            timeline.pass_s(dense_s + host_s)
            plan = scheduler.step(demand, timeline.link_state())
            timeline.pass_s(plan.decision_s)
            timeline.begin(plan)
            copies = scheduler.prefetch(timeline.link_state())
            timeline.prefetch(copies.fetches, copies.decision_s)
            scheduler.observe(timeline.end(dense_s)._replace(host_s=host_s))
            since_check += 1
            if since_check == CHECK_EVERY:
                since_check = 0
                scheduler.residency.check()
        step_s_S[s], counts_SC[s] = timeline.now_s - begin_s, scheduler.board.counts
        if progress is not None and s % 64 == 63:
            progress(s + 1, steps.count)
    return step_s_S, counts_SC


def check_shape(trace: RoutingTrace, num_layers: int, num_experts: int, model: str) -> None:
    """Raise InputError unless the trace is of a model of this shape."""
    if (trace.num_layers, trace.num_experts) != (num_layers, num_experts):
        raise InputError(
            f"the trace has {trace.num_layers} MoE layers of {trace.num_experts} experts, {model} has {num_layers} of "
            f"{num_experts}; name the model that the trace was recorded on"
        )


def demands(trace: RoutingTrace, steps: Steps, weighted: bool = False) -> Iterator[list[Demand]]:
    """The demands of each step, layer by layer; `weighted`: with router weights, where the trace has them."""
    experts, layers = trace.num_experts, trace.num_layers
    columns = steps.begin_S, steps.end_S, steps.phase_S, new_requests(trace, steps)
    for s, (begin, end, phase_number, new) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        phase = Phase(phase_number)
        if weighted and trace.weights_TLK is not None:
            tokens_LE, weights_LE = trace.demand_LE(slice(begin, end)), trace.weight_LE(slice(begin, end))
            yield [Demand(s, l, phase, tokens_LE[l], end - begin, weights_LE[l], new) for l in range(layers)]
        elif end - begin == 1:
            rows = np.sort(trace.experts_TLK[begin], axis=1).tolist()
            ones = [1] * len(rows[0])
            yield [Demand.listed(s, l, phase, rows[l], ones, 1, experts, None, new) for l in range(layers)]
        else:
            tokens_LE = trace.demand_LE(slice(begin, end))
            yield [Demand(s, l, phase, tokens_LE[l], end - begin, None, new) for l in range(layers)]
