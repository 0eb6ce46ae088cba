"""Timeline: what a plan takes on a machine's three lanes, event by event, with contention and chunked copies.

All times are seconds from the decision of the current layer unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..cost.model import CostModel
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Plan

IDLE = LinkState()
GPU = Lane.GPU  # a global costs a third of an enum's attribute


class Copy:
    """One expert on its way: seconds of undisturbed link time left, and whether it was demanded."""

    __slots__ = ("at_s", "begun", "expert", "left_s", "urgent")

    def __init__(self, expert: ExpertId, left_s: float, urgent: bool, at_s: float = 0.0) -> None:
        self.expert = expert
        self.left_s = left_s
        self.urgent = urgent
        self.at_s = at_s  # not before
        self.begun = False


class Timeline:
    """GPU, LINK and CPU lane of one machine, as section by section of a layer they are told what to do.

    The copy engine serves demanded copies in order, then prefetches in order; a prefetch under way is interrupted at
    the end of a chunk. While a copy and the CPU lane are both busy, each runs at its profile's slowdown. A layer is
    `pass_s` (dense part, decision), `begin`, perhaps `prefetch`, `end`.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        profile = cost.profile
        self._cpu_slowdown, self._link_slowdown = profile.cpu_slowdown, profile.h2d_slowdown
        self._copies: list[Copy] = []
        self._arrived: list[ExpertId] = []
        self._busy_s = 0.0
        self._host_s = 0.0
        self.now_s = 0.0  # since the timeline was made, at the last event
        if cost.has_gpu and profile.h2d is not None:
            self._copy_s = cost.copy_s()
            chunks = math.ceil(cost.geometry.expert_bytes / profile.h2d.chunk_bytes)
            self._chunk_s = self._copy_s / max(1, chunks)

    def pass_s(self, seconds: float) -> None:
        """Let time pass in which neither compute lane works for the experts: dense part, decision."""
        self.now_s += seconds
        if self._copies:
            self._run_link(seconds)

    def link_state(self) -> LinkState:
        """What the copy engine would report now; arrivals are reported once."""
        if not self._copies and not self._arrived:
            return IDLE
        arrived, self._arrived = tuple(self._arrived), []
        if not self._copies:
            return LinkState(0.0, arrived)
        first = self._next_copy()
        free_s = end_s = chunk_s = 0.0 if first.urgent else self._chunk_left_s(first)
        in_flight = []
        for copy in self._copies:
            if copy.urgent:
                free_s += copy.left_s
            end_s += copy.left_s - chunk_s if copy is first else copy.left_s
            in_flight.append((copy.expert, end_s))
        return LinkState(free_s, arrived, tuple(in_flight))

    def begin(self, plan: Plan) -> None:
        """Submit a plan: its copies, and its computations."""
        self._plan = plan
        self._host_s = 0.0
        if self._copies:
            wanted = {run.expert for run in plan.runs if run.lane is GPU}
            for copy in self._copies:
                copy.urgent = copy.urgent or copy.expert in wanted
        if plan.fetches:
            self._copies += [Copy(fetch.expert, self._copy_s, urgent=True) for fetch in plan.fetches]
        if len(self._copies) > 1:
            self._copies.sort(key=_by_urgency)  # stable: in order of submission otherwise

    def prefetch(self, fetches: Sequence[Fetch], after_s: float) -> None:
        """Submit copies `after_s` seconds after the plan: what choosing them took beside the lanes."""
        self._host_s = after_s
        for fetch in fetches:
            self._copies.append(Copy(fetch.expert, self._copy_s, urgent=False, at_s=after_s))

    def end(self, dense_s: float) -> Outcome:
        """Run the layer to its end."""
        plan, cost = self._plan, self._cost
        gpu_experts, gpu_n, cpu_n = [], [], []
        for expert, num_tokens, lane, _ in plan.runs:
            if lane is GPU:
                gpu_experts.append(expert)
                gpu_n.append(num_tokens)
            else:
                cpu_n.append(num_tokens)
        cpu_work_s = sum(cost.each_cpu_s(cpu_n)) if cpu_n else 0.0
        cpu_start_s = cost.cpu_start_s(plan.demand.num_tokens) if cpu_n else 0.0
        waiting = {copy.expert for copy in self._copies}.intersection(gpu_experts) if self._copies else set()
        cpu_end_s, moment_s, arrival_s = self._run_both(cpu_work_s, cpu_start_s, waiting)
        work_s = cost.each_gpu_s(gpu_n) if gpu_n else []
        call_s = cost.gpu_call_s() if gpu_n else 0.0
        busy_s = gpu_end_s = call_s + sum(work_s)
        if arrival_s:
            gpu_end_s = call_s
            for expert, one_s in zip(gpu_experts, work_s, strict=True):
                gpu_end_s = max(gpu_end_s, arrival_s.get(expert, 0.0)) + one_s
        stall_s = gpu_end_s - busy_s
        makespan_s = max(gpu_end_s, cpu_end_s, self._host_s)
        if self._copies:
            self._run_link(makespan_s - moment_s, moment_s)
            for copy in self._copies:
                copy.at_s = 0.0
        self.now_s += makespan_s
        link_s, self._busy_s = self._busy_s, 0.0
        return Outcome(plan, dense_s, makespan_s, dense_s + busy_s, cpu_end_s, link_s, stall_s)

    def _chunk_left_s(self, copy: Copy) -> float:
        if not copy.begun:
            return 0.0
        left_s = copy.left_s % self._chunk_s
        return left_s if self._chunk_s - left_s > 1e-12 else 0.0  # a whole chunk but for rounding: not begun

    def _run_link(self, seconds: float, from_s: float = 0.0) -> None:
        """Copy for so long with the CPU lane idle."""
        end_s = from_s + seconds
        while self._copies and from_s < end_s:
            copy = self._copies[0]
            from_s = max(from_s, copy.at_s)
            if from_s >= end_s:
                return
            spent_s = min(copy.left_s, end_s - from_s)
            from_s += spent_s
            self._progress(copy, spent_s, spent_s)

    def _progress(self, copy: Copy, work_s: float, took_s: float) -> bool:
        """Account for a stretch of copying; whether the copy has arrived."""
        self._busy_s += took_s
        copy.begun = True
        copy.left_s -= work_s
        if copy.left_s > 1e-15:
            return False
        self._copies.remove(copy)
        self._arrived.append(copy.expert)
        return True

    def _run_both(
        self, cpu_work_s: float, cpu_start_s: float, needed: set[ExpertId]
    ) -> tuple[float, float, dict[ExpertId, float]]:
        """Copy and compute until the CPU lane and the needed copies have ended.

        Returns the CPU lane's end, the moment up to which the link has been run, and when needed experts arrived.
        """
        cpu_end_s = cpu_start_s + cpu_work_s if cpu_work_s else 0.0
        if not self._copies:
            return cpu_end_s, cpu_end_s, {}
        moment_s, cpu_left_s = 0.0, cpu_work_s
        arrival_s: dict[ExpertId, float] = {}
        while self._copies and (cpu_left_s > 0 or len(arrival_s) < len(needed)):
            copy = self._next_copy()
            ready_s = max(moment_s, copy.at_s)
            if cpu_left_s > 0 and ready_s > cpu_start_s and ready_s > moment_s:  # the link waits, the CPU does not
                alone_s = ready_s - max(moment_s, cpu_start_s)
                if cpu_left_s <= alone_s:
                    cpu_end_s = moment_s = max(moment_s, cpu_start_s) + cpu_left_s
                    cpu_left_s = 0.0
                    continue
                cpu_left_s -= alone_s
            moment_s = ready_s
            work_s = self._piece_s(copy)
            if cpu_left_s <= 0:
                took_s = work_s
            elif moment_s < cpu_start_s:
                took_s = work_s = min(work_s, cpu_start_s - moment_s)
            else:
                took_s = min(work_s * self._link_slowdown, cpu_left_s * self._cpu_slowdown)
                work_s = took_s / self._link_slowdown
                cpu_left_s -= took_s / self._cpu_slowdown
                if cpu_left_s <= 1e-15:
                    cpu_left_s, cpu_end_s = 0.0, moment_s + took_s
            moment_s += took_s
            if self._progress(copy, work_s, took_s) and copy.expert in needed:
                arrival_s[copy.expert] = moment_s
        if cpu_left_s > 0:
            cpu_end_s = max(moment_s, cpu_start_s) + cpu_left_s
        return cpu_end_s, moment_s, arrival_s

    def _next_copy(self) -> Copy:
        """The copy to go on with: one under way until its chunk ends, then demanded ones, then prefetches."""
        head = self._copies[0]
        for copy in self._copies:
            if copy.begun and not copy.urgent and head.urgent and self._chunk_left_s(copy) > 1e-15:
                return copy
        return head

    def _piece_s(self, copy: Copy) -> float:
        """Work until the next moment at which another copy may come between."""
        if not copy.urgent and self._copies[0].urgent:
            return self._chunk_left_s(copy)
        return copy.left_s


def _by_urgency(copy: Copy) -> bool:
    return not copy.urgent
