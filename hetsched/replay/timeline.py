"""Timeline: what a plan takes on a machine's three lanes, event by event, with contention and chunked copies.

All times are seconds from the decision of the current layer unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..board.seconds import machine_of
from ..cost.model import CostModel
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Plan

IDLE = LinkState()
GPU = Lane.GPU  # a global costs a third of an enum's attribute
MOST_COPIES, MOST_EXPERTS = 1 << 14, 1 << 12  # under way, and in a layer


class Timeline:
    """GPU, LINK and CPU lane of one machine, as section by section of a layer they are told what to do.

    The copy engine serves demanded copies in order, then prefetches in order; a prefetch under way is interrupted at
    the end of a chunk. While a copy and the CPU lane are both busy, each runs at its profile's slowdown. A layer is
    `pass_s` (dense part, decision), `begin`, perhaps `prefetch`, `end`. The arithmetic is line.py's. `believed`: by
    whose seconds the copy engine reports what is left, where these are not `cost`'s.
    """

    def __init__(self, cost: CostModel, believed: CostModel | None = None) -> None:
        from . import line, line_calls  # numba takes long to import

        self._kernels = line_calls.calls
        self._cost = cost
        self._believed = cost if believed is None else believed
        self._arrays = line.new_line(MOST_COPIES, machine_of(cost))
        self._line = line.sections(*self._arrays)
        self._state = np.zeros(MOST_COPIES, np.int64), np.zeros(MOST_COPIES), np.zeros(MOST_COPIES, np.int64)

    @property
    def now_s(self) -> float:
        """Seconds since the timeline was made, at the last event."""
        return float(self._line.time_3[0])

    def change(self, cost: CostModel) -> None:
        """From now on work takes other seconds, what is left of copies under way too."""
        self._cost = cost
        self._kernels.change(*self._arrays, machine_of(cost))

    def pass_s(self, seconds: float) -> None:
        """Let time pass in which neither compute lane works for the experts: dense part, decision."""
        self._kernels.pass_s(*self._arrays, seconds)

    def link_state(self) -> LinkState:
        """What the copy engine would report now; arrivals are reported once."""
        flying_F, left_s_F, arrived_F = self._state
        free_s, flying, arrived = self._kernels.link_state(*self._arrays, self._believed.copy_s(), *self._state)
        if not (flying or arrived):
            return IDLE
        in_flight = zip(map(_expert, flying_F[:flying].tolist()), left_s_F[:flying].tolist(), strict=True)
        return LinkState(free_s, tuple(map(_expert, arrived_F[:arrived].tolist())), tuple(in_flight))

    def begin(self, plan: Plan) -> None:
        """Submit a plan: its copies, and its computations."""
        self._plan = plan
        gpu = [run for run in plan.runs if run.lane is GPU]
        self._gpu_N = np.array([_number(run.expert) for run in gpu], np.int64)
        self._gpu_n = [run.num_tokens for run in gpu]
        fetched_N = np.array([_number(fetch.expert) for fetch in plan.fetches], np.int64)
        self._kernels.begin(*self._arrays, self._gpu_N, fetched_N)

    def prefetch(self, fetches: Sequence[Fetch], after_s: float) -> None:
        """Submit copies `after_s` seconds after the plan: what choosing them took beside the lanes."""
        self._kernels.prefetch(
            *self._arrays, np.array([_number(fetch.expert) for fetch in fetches], np.int64), float(after_s)
        )

    def end(self, dense_s: float) -> Outcome:
        """Run the layer to its end."""
        plan, cost = self._plan, self._cost
        cpu_n = [run.num_tokens for run in plan.runs if run.lane is not GPU]
        cpu_work_s = float(sum(cost.each_cpu_s(cpu_n), 0.0))
        cpu_start_s = float(cost.cpu_start_s(plan.demand.num_tokens) if cpu_n else 0.0)
        gpu_s_N = np.array(cost.each_gpu_s(self._gpu_n) if self._gpu_n else [], float)
        call_s = float(cost.gpu_call_s() if self._gpu_n else 0.0)
        self._kernels.end(*self._arrays, self._gpu_N, gpu_s_N, call_s, cpu_work_s, cpu_start_s)
        makespan_s, busy_s, cpu_end_s, link_s, stall_s = self._line.ends_5.tolist()
        return Outcome(plan, dense_s, makespan_s, dense_s + busy_s, cpu_end_s, link_s, stall_s)


def _number(expert: ExpertId) -> int:
    return expert[0] * MOST_EXPERTS + expert[1]


def _expert(number: int) -> ExpertId:
    return ExpertId(*divmod(number, MOST_EXPERTS))
