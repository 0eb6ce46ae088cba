"""Simulator: replays a routing trace through a Scheduler on a virtual machine, layer by layer. Deterministic.

Shapes: S steps, L layers, T tokens of a step, K top-k, E experts, N active experts, C counts of a board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..board import COUNTS, N_DECODED, N_TOKENS, STEP
from ..cost.model import CostModel
from ..errors import InputError
from ..scheduler import Scheduler
from ..stats import RunStats
from ..traces.trace import RoutingTrace
from ..traces.verified import Drafting
from ..types import BoolArray, Demand, Float32Array, FloatArray, IntArray, Phase
from .steps import Steps, contexts, new_requests
from .timeline import Timeline
from .truth import Span, TrueHardware, true_spans, without_factors

if TYPE_CHECKING:
    from ..deciders.compiled import CompiledDecider

CHECK_EVERY = 32  # layers between two checks of the residency's invariants
STEPS_AT_ONCE = 64  # in one compiled call
NOBODY = 0, 0  # in place of a C function
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Replay:
    """What a replay came to: sums over all layers; the seconds of each step [S], host time counted.

    `counts_SC`: the board's counts (N_HITS and others of board) as they stood after each step. `steps`: those that were
    run, `context_S` tokens of the text before each. `drafting`: how drafts fared, where it is known what was rejected.
    """

    stats: RunStats
    step_s_S: FloatArray
    counts_SC: IntArray
    steps: Steps
    context_S: IntArray
    drafting: Drafting | None = None

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
    trace: RoutingTrace,
    steps: Steps,
    scheduler: Scheduler,
    progress: Progress | None = None,
    host_s: float = 0.0,
    true_hardware: TrueHardware | None = None,
) -> Replay:
    """Replay `steps` of a trace: the same Scheduler, Policy, Forecaster and Solver that run in a model.

    `host_s`: what the engine itself takes for each layer before its decision; copies go on meanwhile. `true_hardware`:
    what work really takes, where the scheduler believes something else, or the machine changes midway. Where scheduler,
    policy and solver are compiled and decisions are charged a constant, the replay is one compiled loop over the same
    kernels; else layer by layer in Python.
    Raises InputError where trace and model differ in shape, and ResidencyError or PlanError where a policy breaks its
    contract.
    """
    shape = scheduler.geometry
    check_shape(trace, shape.num_layers, shape.num_experts, shape.name)
    parts, spans = compiled_parts(scheduler), true_spans(scheduler.cost, true_hardware)
    if parts is None:
        step_s_S, counts_SC = _run(trace, steps, scheduler, spans, host_s, progress)
    else:
        step_s_S, counts_SC = _run_compiled(trace, steps, scheduler, parts, spans, host_s, progress)
    return replayed(steps, new_requests(trace, steps), scheduler, step_s_S, counts_SC)


def replayed(steps: Steps, new_S: BoolArray, scheduler: Scheduler, step_s_S: FloatArray, counts_SC: IntArray) -> Replay:
    """What steps that were run came to, with what was drafted; `step_s_S` and `counts_SC` are changed.

    `new_S`: the step is the first of a sequence.
    """
    scheduler.drop_copies()  # what is under way goes with the timeline
    scheduler.residency.check()
    _discount_rejected(steps, scheduler.stats, counts_SC)
    if steps.draft_s_S is not None:  # the lanes and the link stand still meanwhile
        step_s_S += steps.draft_s_S
        scheduler.stats.record_tail(Phase.VERIFY, float(steps.draft_s_S.sum()))
    return Replay(scheduler.stats, step_s_S, counts_SC, steps, contexts(steps, new_S), steps.drafting)


def _discount_rejected(steps: Steps, stats: RunStats, counts_SC: IntArray) -> None:
    """Take rejected drafts out of the counts of tokens, in place; their time and bytes stay."""
    if steps.rejected_S is None:
        return
    decoding_S = steps.phase_S != Phase.PREFILL
    for place, counted_S in ((N_TOKENS, steps.rejected_S), (N_DECODED, steps.rejected_S * decoding_S)):
        counts_SC[:, place] -= np.cumsum(counted_S)
        stats.board.counts[place] -= counted_S.sum()


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
    spans: list[Span],
    host_s: float,
    progress: Progress | None,
) -> tuple[FloatArray, IntArray]:
    """Seconds of each step and counts after it, in compiled calls of some steps each."""
    from .line import new_line
    from .line_calls import calls as line_calls
    from .loop import replay

    (decider, clock), step_s_S, counts_SC = parts, np.zeros(steps.count), np.zeros((steps.count, COUNTS), np.int64)
    charge_3 = np.array([clock.charge_s, clock.beside_s, host_s])
    most = int((steps.end_S - steps.begin_S).max(initial=1))
    scheduler.board.at[STEP] = -1
    learning = scheduler.recalibration.learning
    seconds_4T = scheduler.seconds.table(most)
    step, ahead = decider.calls.c_functions(scheduler.arrays, seconds_4T)
    places = step.place, ahead.place if decider.calls.looks_ahead else NOBODY
    fixed = *scheduler.arrays, *places, seconds_4T, *without_factors(scheduler.cost, most), learning
    tables = {span.begin: span.tables(most) for span in spans}
    true_4T, machine = tables[0]
    line = new_line(scheduler.residency.state_LE.size, machine)
    new_S = new_requests(trace, steps)
    for first, last in _chunks(steps.count, spans):
        if first and first in tables:
            true_4T, machine = tables[first]
            line_calls.change(*line, machine)
        span = slice(first, last)
        begin_S, end_S = steps.begin_S[span], steps.end_S[span]
        phases = steps.phase_S[span].astype(np.uint8)
        asked = _weights(trace, scheduler, begin_S, end_S), begin_S, end_S, phases, new_S[span]
        results = step_s_S[span], counts_SC[span]
        decider.refuse(
            replay(*fixed, true_4T, line, trace.experts_TLK, *asked, charge_3, scheduler.pace.numbers_P, *results)
        )
        scheduler.recalibration.follow()
        scheduler.residency.check()
        scheduler.note_moves()
        if progress is not None:
            progress(last, steps.count)
    return step_s_S, counts_SC


def _chunks(count: int, spans: list[Span]) -> list[tuple[int, int]]:
    """Steps first..last - 1 of each compiled call, in which the machine does not change."""
    ends = {*range(0, count, STEPS_AT_ONCE), *[span.begin for span in spans if span.begin < count], count}
    return list(pairwise(sorted(ends)))


def _weights(trace: RoutingTrace, scheduler: Scheduler, begin_S: IntArray, end_S: IntArray) -> Float32Array:
    """Router weights of these steps' tokens; of none where the policy does not look at them, or there are none."""
    shape = (0, trace.num_layers, trace.top_k)
    if not scheduler.traits.uses_weights or trace.weights_TLK is None:
        return np.zeros(shape, np.float32)
    return trace.weights_TLK[int(begin_S[0]) : int(end_S[-1])].astype(np.float32)


def _run(
    trace: RoutingTrace,
    steps: Steps,
    scheduler: Scheduler,
    spans: list[Span],
    host_s: float,
    progress: Progress | None,
) -> tuple[FloatArray, IntArray]:
    """Seconds of each step and counts after it, layer by layer."""
    step_s_S, counts_SC = np.zeros(steps.count), np.zeros((steps.count, COUNTS), np.int64)
    cost, costs = spans[0].cost, dict(spans[1:])
    timeline = Timeline(cost, scheduler.cost)
    for s, layers in enumerate(demands(trace, steps, scheduler.traits.uses_weights)):
        if s in costs:
            cost = costs[s]
            timeline.change(cost)
        step_s_S[s] = run_step(layers, scheduler, timeline, cost, host_s)
        counts_SC[s] = scheduler.board.counts
        if progress is not None and s % 64 == 63:
            progress(s + 1, steps.count)
    return step_s_S, counts_SC


def run_step(
    layers: Sequence[Demand], scheduler: Scheduler, timeline: Timeline, cost: CostModel, host_s: float
) -> float:
    """Run one step layer by layer; its seconds. `cost`: of what is true."""
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
        if scheduler.stats.layers % CHECK_EVERY == 0:
            scheduler.residency.check()
    return timeline.now_s - begin_s


def check_shape(trace: RoutingTrace, num_layers: int, num_experts: int, model: str) -> None:
    """Raise InputError unless the trace is of a model of this shape."""
    if (trace.num_layers, trace.num_experts) != (num_layers, num_experts):
        raise InputError(
            f"the trace has {trace.num_layers} MoE layers of {trace.num_experts} experts, {model} has {num_layers} of "
            f"{num_experts}; name the model that the trace was recorded on"
        )


def demands(trace: RoutingTrace, steps: Steps, weighted: bool = False) -> Iterator[list[Demand]]:
    """The demands of each step, layer by layer; `weighted`: with router weights, where the trace has them."""
    columns = steps.begin_S, steps.end_S, steps.phase_S, new_requests(trace, steps)
    for s, (begin, end, phase_number, new) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        yield step_demands(trace, begin, end, s, Phase(phase_number), new, weighted=weighted)


def step_demands(
    trace: RoutingTrace, begin: int, end: int, step: int, phase: Phase, new: bool, *, weighted: bool = False
) -> list[Demand]:
    """The demands of one step that holds tokens begin..end - 1, layer by layer."""
    count, layers = end - begin, range(trace.num_layers)
    if count == 1 and not (weighted and trace.weights_TLK is not None):
        rows = np.sort(trace.experts_TLK[begin], axis=1).tolist()
        ones = [1] * len(rows[0])
        return [Demand.listed(step, l, phase, rows[l], ones, 1, trace.num_experts, None, new) for l in layers]
    tokens_LE = trace.demand_LE(slice(begin, end))
    if not weighted or trace.weights_TLK is None:
        return [Demand(step, l, phase, tokens_LE[l], count, None, new) for l in layers]
    weights_LE = trace.weight_LE(slice(begin, end))
    return [Demand(step, l, phase, tokens_LE[l], count, weights_LE[l], new) for l in layers]
