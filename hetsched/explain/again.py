"""A logged run decided again, up to one layer: what the scheduler knew and expected there.

The scheduler is told what it was told then. Where it decides otherwise, which is counted (hidden states and earlier
runs' memory are in no log, and engines let simple strategies decide for a while), the residency is made the log's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..board import ABSENT, NO_EXPERT
from ..deciders.pace import Pace
from ..errors import InputError
from ..residency import Arrive, Drop
from ..resizing import resize
from ..runlog import Frame, Layer, Move, RunLog
from ..scheduler import DEFAULT_SOLVER, Scheduler
from ..types import (
    BoolArray,
    Demand,
    Evict,
    ExpertId,
    Fetch,
    LinkState,
    Outcome,
    Phase,
    Plan,
)

PHASES = {"prefill": Phase.PREFILL, "decode": Phase.DECODE, "verify": Phase.VERIFY, "unknown": Phase.UNKNOWN}


class Before(NamedTuple):
    """What was known when a layer was to be decided.

    `scheduler` has been told all before it. `state_LE`: as residency.State. `foreseen`: what the policy goes by, None
    for one that does not say. `agreed` of `decided` layers before were decided as the log says; `note` on what is
    missing, "" for nothing.
    """

    scheduler: Scheduler
    state_LE: Any
    foreseen: Any
    agreed: int
    decided: int
    note: str


@dataclass
class Again:
    """A run told again. `held_LE`: who holds slots by the log."""

    log: RunLog
    scheduler: Scheduler
    held_LE: BoolArray
    note: str
    agreed: int = 0
    decided: int = 0
    frames: list[Frame] = field(default_factory=list)

    @classmethod
    def of(cls, log: RunLog) -> Again:
        """At its beginning."""
        scheduler, note = _scheduler(log)
        again = cls(log, scheduler, _mask(log.header.resident, scheduler), note, frames=list(log.frames))
        again.agree()
        return again

    def layer(self, row: Layer) -> None:
        """One layer, as it was logged."""
        self.begin(row)
        scheduler, demand = self.scheduler, demand_of(row, self.log.header.num_experts)
        plan = self._decided(row, demand)
        for move in row.moves:
            if move.kind == "fetch":
                self._move(move)
        for expert in row.evicts:
            self.held_LE[expert] = False
        self.agree()
        if row.beside_s or not scheduler.traits.is_paced:
            scheduler.prefetch(self._begun(row))
        else:
            scheduler.forget()  # type: ignore[attr-defined]  # it did not look ahead either
        lanes_s = row.gpu_s, row.cpu_s, row.link_s, row.stall_s, row.host_s, row.copied, row.copied_s
        scheduler.observe(Outcome(plan, row.dense_s, row.measured_s, *lanes_s))
        for move in row.moves:
            if move.kind == "prefetch":
                self._move(move)
        self.agree()

    def begin(self, row: Layer) -> None:
        """What happened before this layer: a frame of its step, other slots, copies for drafts."""
        while self.frames and self.frames[0].step <= row.step:
            frame = self.frames.pop(0)
            if frame.step == row.step:
                self.held_LE = _mask(frame.experts, self.scheduler)
        if row.slots != self.scheduler.residency.num_slots:
            self.scheduler.drop_copies()
            resize(self.scheduler, row.slots)
        for move in row.moves:
            if move.kind == "draft":
                self._move(move)
        self.agree()

    def agree(self) -> None:
        """Make the residency the log's."""
        residency = self.scheduler.residency
        now_LE = (residency.state_LE != ABSENT) & (residency.state_LE != NO_EXPERT)
        if not (wrong_LE := now_LE != self.held_LE).any():
            return
        for place in np.argwhere(wrong_LE & now_LE):
            expert = ExpertId(*place.tolist())
            residency.apply(Drop(expert) if residency.is_copying(expert) else Evict(expert, "as logged"))
        for place in np.argwhere(wrong_LE & self.held_LE):
            expert = ExpertId(*place.tolist())
            residency.apply(Fetch(expert, None, False, "as logged"))
            residency.apply(Arrive(expert))

    def link(self, row: Layer) -> LinkState:
        """The copy engine at a layer's decision; who is under way no longer has arrived."""
        flying = () if row.link is None else row.link.flying
        in_flight = tuple([(ExpertId(layer, expert), left_s) for layer, expert, left_s in flying])
        there = {expert for expert, _ in in_flight}
        copying = self.scheduler.residency.copying() if self.scheduler.residency.num_copying else []
        arrived = tuple([expert for expert in copying if expert not in there])
        return LinkState(row.link.free_s if row.link else 0.0, arrived, in_flight)

    def _decided(self, row: Layer, demand: Demand) -> Plan:
        """What the scheduler decides now, counted as agreeing or not; with the log's seconds."""
        plan = self.scheduler.step(demand, self.link(row))
        self.decided += 1
        here = {run.expert.expert: run.lane.value for run in plan.runs}
        same = all((here[e] == "gpu") == (lane in "rif") for e, lane in zip(row.experts, row.lane, strict=True))
        fetched = [(m.layer, m.expert) for m in row.moves if m.kind == "fetch"]
        self.agreed += same and [tuple(fetch.expert) for fetch in plan.fetches] == fetched
        plan.decision_s, plan.predicted_s = row.decide_s, row.predicted_s
        return plan

    def _begun(self, row: Layer) -> LinkState:
        """The copy engine when the lanes had begun."""
        copy_s, free_s = self.scheduler.cost.copy_s(), max(0.0, (row.link.free_s if row.link else 0.0) - row.decide_s)
        flying = (
            [] if row.link is None else [(ExpertId(l, e), max(0.0, s - row.decide_s)) for l, e, s in row.link.flying]
        )
        for move in row.moves:
            if move.kind == "fetch":
                free_s += copy_s
                flying.append((ExpertId(move.layer, move.expert), free_s))
        return LinkState(free_s, (), tuple(flying))

    def _move(self, move: Move) -> None:
        if move.out is not None:
            self.held_LE[move.out] = False
        self.held_LE[move.layer, move.expert] = True


class _Told(Scheduler):
    """A scheduler that can be kept from learning a layer."""

    def forget(self) -> None:
        """The layer decided last is not learned."""
        self._unobserved = None


def before(log: RunLog, place: int) -> Before:
    """What was known before a layer of the log. Raises InputError where its policy is not installed."""
    again = Again.of(log)
    for row in log.layers[:place]:
        again.layer(row)
    row, scheduler = log.layers[place], again.scheduler
    again.begin(row)
    for expert in again.link(row).arrived:
        scheduler.residency.apply(Arrive(expert))
    state_LE, foreseen = scheduler.residency.state_LE.copy(), _foreseen(scheduler)
    if foreseen is not None:  # utilities of what is demanded are made in deciding
        scheduler.step(demand_of(row, log.header.num_experts), again.link(row))
        foreseen = foreseen._replace(utility_LE=_foreseen(scheduler).utility_LE)
    return Before(scheduler, state_LE, foreseen, again.agreed, again.decided, again.note)


def _foreseen(scheduler: Scheduler) -> Any:
    """What its policy goes by now, None for one that does not say."""
    tells = getattr(scheduler.policy, "foreseen", None)
    return tells() if tells else None


def demand_of(row: Layer, num_experts: int) -> Demand:
    """What a layer's router asked for."""
    told = list(row.experts), list(row.counts), row.tokens, num_experts, None, row.new_request
    return Demand.listed(row.step, row.layer, PHASES[row.phase], *told)


def _scheduler(log: RunLog) -> tuple[Scheduler, str]:
    header = log.header
    known_LE = None if header.popularity is None else np.array(header.popularity)
    capacity_bytes, solver = header.slots * header.geometry.expert_bytes, header.solver or DEFAULT_SOLVER

    def asking(forecaster: str | None) -> Scheduler:
        return _Told(
            header.geometry,
            header.profile,
            capacity_bytes,
            policy=header.policy,
            solver=solver,
            forecaster=forecaster,
            frequency_LE=known_LE,
            timed_as=header.timing,
            clock=lambda: 0.0,
        )

    note = ""
    try:
        made = asking(header.forecaster or None)
    except InputError as error:
        made = asking(None)
        note = f"forecaster {header.forecaster!r} cannot be asked here, {made.policy.name}'s own is: {error}"
    made.pace = Pace(1)
    return made, note


def _mask(experts: Sequence[Sequence[int]], scheduler: Scheduler) -> BoolArray:
    held_LE: BoolArray = np.zeros(scheduler.residency.state_LE.shape, np.bool_)
    for layer, ids in enumerate(experts):
        held_LE[layer, list(ids)] = True
    return held_LE
