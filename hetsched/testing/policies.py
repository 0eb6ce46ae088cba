"""Laws that every policy keeps, over a replayed run. Third parties run them on theirs: `for law in LAWS: law(make)`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..deciders.methods import give_methods
from ..geometry import MoEGeometry
from ..machine.gallery import machine
from ..machine.hardware import nominal_cpu
from ..machine.profile import HardwareProfile
from ..policy import Decision, Policy, Setting, View, traits_of
from ..residency import ABSENT, RESIDENT
from ..resizing import resize
from ..scheduler import Scheduler
from ..traces.trace import RoutingTrace
from ..types import Demand, ExpertId, Fetch, IntArray, Lane, LinkState, Outcome, Phase, Plan

Make = Callable[[], Policy]
SHAPE = MoEGeometry("law", num_layers=4, num_experts=12, top_k=3, hidden=1024, ffn=2048, dense_params=4_000_000)
HARDWARE = "rtx-4060-laptop-8gb"


class Told(NamedTuple):
    """One layer of a replay: the plan, the states [L, E] before its prefetches, and the prefetches."""

    scheduler: Scheduler
    plan: Plan
    before_LE: IntArray
    copies: tuple[Fetch, ...]


def replay(
    make: Make,
    slots: int,
    *,
    steps: int = 30,
    seed: int = 0,
    prefetch: bool = True,
    hardware: HardwareProfile | None = None,
) -> Iterator[Told]:
    """A policy on a skewed random demand: a prefill, decode and verify steps.

    Prefetches arrive one to three layers later. Decisions take no time: plans may depend on what a run took so far.
    """
    trace, random = demanded(steps, seed), np.random.default_rng(seed)
    profile = hardware or machine(HARDWARE)
    gpu_bytes = slots * SHAPE.expert_bytes
    scheduler = Scheduler(SHAPE, profile, gpu_bytes, policy=make(), future=trace, clock=lambda: 0.0)
    waiting: list[tuple[ExpertId, int]] = []
    step_T = np.array(trace.step_T)
    edges = np.searchsorted(step_T, np.arange(steps + 1)).tolist()
    for begin, end in itertools.pairwise(edges):
        phase, tokens_LE = Phase(int(trace.phase_T[begin])), trace.demand_LE(slice(begin, end))
        for layer in range(SHAPE.num_layers):
            arrived = tuple(expert for expert, left in waiting if left == 0)
            waiting = [(expert, left - 1) for expert, left in waiting if left > 0]
            ahead = [expert for expert, _ in waiting]
            demand = scheduler.demand(layer, tokens_LE[layer], end - begin, phase)
            plan = scheduler.step(demand, _link(ahead, scheduler, arrived))
            before_LE = scheduler.residency.state_LE.astype(np.int64)
            copies: tuple[Fetch, ...] = ()
            if prefetch:
                ahead = [fetch.expert for fetch in plan.fetches] + ahead
                copies = scheduler.prefetch(_link(ahead, scheduler)).fetches
            scheduler.residency.check()
            yield Told(scheduler, plan, before_LE, copies)
            scheduler.observe(Outcome(plan, 1e-4, plan.predicted_s))
            waiting += [(fetch.expert, int(random.integers(3))) for fetch in copies]
            waiting = [(expert, left) for expert, left in waiting if scheduler.residency.is_copying(expert)]


@cache
def demanded(steps: int, seed: int) -> RoutingTrace:
    """Skewed random routing: a prefill of 20 tokens, then decode steps, every fifth a verify step of 4 tokens."""
    random = np.random.default_rng(seed)
    shape = (SHAPE.num_layers, SHAPE.num_experts)
    likely_LE = np.log(0.9 * random.dirichlet(np.full(shape[1], 0.5), shape[0]) + 0.1 / shape[1])
    phases = [Phase.PREFILL if s == 0 else Phase.VERIFY if s % 5 == 0 else Phase.DECODE for s in range(steps)]
    tokens_S = [{Phase.PREFILL: 20, Phase.VERIFY: 4}.get(phase, 1) for phase in phases]
    # the largest of log p + Gumbel noise are a draw without replacement (Yellott 1977)
    chosen_TLE = np.argsort(-(likely_LE + random.gumbel(size=(sum(tokens_S), *shape))), axis=2)
    return RoutingTrace(
        chosen_TLE[:, :, : SHAPE.top_k].astype(np.int16),
        np.zeros(sum(tokens_S), np.int32),
        np.repeat(np.array(phases, np.uint8), tokens_S),
        SHAPE.num_experts,
        step_T=np.repeat(np.arange(steps, dtype=np.int32), tokens_S),
    )


def _link(waiting: Sequence[ExpertId], scheduler: Scheduler, arrived: tuple[ExpertId, ...] = ()) -> LinkState:
    """A copy engine with these copies ahead of it, each a hundredth of a copy from its end more than the last."""
    step_s = scheduler.cost.copy_s() / 100 if waiting else 0.0
    return LinkState(0.0, arrived, tuple((expert, (i + 1) * step_s) for i, expert in enumerate(waiting)))


def each_active_expert_runs_once(make: Make) -> None:
    """Exactly one Run per active expert, with its tokens; a GPU run is of an expert that is or comes there."""
    for slots in (0, 1, 7, 24, 48):
        for told in replay(make, slots, steps=6):
            _keeps_the_contract(told)


def it_says_what_it_is(make: Make) -> None:
    """It is a Policy, with a name, and traits that do not change."""
    policy = make()
    assert isinstance(policy, Policy)
    assert policy.name
    assert traits_of(policy) == traits_of(make())


def predictions_are_seconds(make: Make) -> None:
    """The expected makespan is finite and positive."""
    for told in replay(make, 12, steps=5):
        assert 0 < told.plan.predicted_s < math.inf


def demanded_copies_are_no_prefetches(make: Make) -> None:
    """plan() gives demanded copies, prefetch() the others, and each is marked so; everything has a cause."""
    for told in replay(make, 9, steps=10):
        assert not any(fetch.prefetch for fetch in told.plan.fetches)
        assert all(fetch.prefetch for fetch in told.copies)
        assert all(run.cause for run in told.plan.runs)
        assert all(evict.cause for evict in told.plan.evicts)
        assert all(fetch.cause for fetch in (*told.plan.fetches, *told.copies))


def prefetches_displace_only_idle_residents(make: Make) -> None:
    """A prefetched expert was absent; its victim was resident: not on its way, not active in the layer."""
    for slots in (1, 6, 12, 24):
        for told in replay(make, slots, steps=8):
            demand = told.plan.demand
            for fetch in told.copies:
                assert told.before_LE[fetch.expert] == ABSENT
                if fetch.victim is not None:
                    assert told.before_LE[fetch.victim] == RESIDENT
                    assert fetch.victim.layer != demand.layer or fetch.victim.expert not in demand.active
            moved = [fetch.expert for fetch in told.copies] + [fetch.victim for fetch in told.copies if fetch.victim]
            assert len(set(moved)) == len(moved)


def it_works_without_prefetch(make: Make) -> None:
    """An executor that never asks for prefetches gets plans all the same, and what was demanded is still learned."""
    for told in replay(make, 12, steps=10, prefetch=False):
        _keeps_the_contract(told)
        assert not told.copies
    learned: list[int] = []
    for _ in replay(lambda: _Watched(make(), learned), 12, steps=4, prefetch=False):
        pass
    assert learned == [layer for _ in range(4) for layer in range(SHAPE.num_layers)]


def it_works_without_an_accelerator(make: Make) -> None:
    """On a machine without a GPU everything runs on the CPU and nothing is copied."""
    for told in replay(make, 12, steps=3, hardware=nominal_cpu()):
        _keeps_the_contract(told)
        assert not told.copies
        assert not told.plan.fetches
        assert {run.lane for run in told.plan.runs} == {Lane.CPU}


def what_it_is_given_stays_as_it_is(make: Make) -> None:
    """Neither residency nor demand is changed by plan, observe or prefetch, and the demand is learned once a layer."""
    learned: list[int] = []
    for _ in replay(lambda: _Watched(make(), learned), 10, steps=8):
        pass
    assert learned == [layer for _ in range(8) for layer in range(SHAPE.num_layers)]


def same_demand_same_plans(make: Make) -> None:
    """A policy is deterministic: the same demands give the same plans and prefetches, also after a second start."""
    policy = make()
    makes: tuple[Make, ...] = (make, make, lambda: policy, lambda: policy)
    runs = [
        [
            (told.plan.evicts, told.plan.fetches, told.plan.runs, told.copies)
            for told in replay(new, 10, steps=12, seed=3)
        ]
        for new in makes
    ]
    assert all(run == runs[0] for run in runs)


def memory_is_used_within_bounds(make: Make) -> None:
    """Never more experts than slots."""
    for told in replay(make, 5, steps=12):
        residency = told.scheduler.residency
        assert int(np.count_nonzero(residency.state_LE)) <= residency.num_slots == 5
        assert residency.state_LE.max() <= RESIDENT


class _Watched:
    """A policy that forwards to another and checks that nothing it is given changes; notes the layers learned."""

    def __init__(self, policy: Policy, learned: list[int]) -> None:
        self.name = policy.name
        self.traits = traits_of(policy)
        self._policy = policy
        self._learned = learned
        told = getattr(policy, "executed", None)
        if told is not None:
            self.executed = told

    def start(self, machine: Setting) -> Sequence[ExpertId]:
        initial = self._policy.start(machine)
        give_methods(self._policy, machine)
        return initial

    def plan(self, demand: Demand, view: View) -> Decision:
        before = _facts(demand, view)
        decision = self._policy.plan(demand, view)
        assert _facts(demand, view) == before
        return decision

    def observe(self, demand: Demand) -> None:
        before = _facts(demand)
        self._policy.observe(demand)
        self._learned.append(demand.layer)
        assert _facts(demand) == before

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        before = _facts(demand, view)
        copies = self._policy.prefetch(demand, view)
        assert _facts(demand, view) == before
        return copies


def the_number_of_slots_may_change(make: Make) -> None:
    """Between two steps, to fewer, to none and to more: decisions keep the contract, and a static one stays static."""
    changes = {3: 5, 6: 0, 8: 17, 11: 11, 14: 40}
    waiting = dict(changes)
    for told in replay(make, 24, steps=17):
        scheduler, demand = told.scheduler, told.plan.demand
        _keeps_the_contract(told)
        if traits_of(scheduler.policy).static:
            assert not told.plan.fetches
            assert not told.plan.evicts
            assert not told.copies
        now = [slots for step, slots in changes.items() if step <= demand.step and step not in waiting]
        assert scheduler.residency.num_slots == (now[-1] if now else 24)
        if demand.layer == SHAPE.num_layers - 1 and demand.step in waiting:
            scheduler.observe(Outcome(told.plan, 1e-4, told.plan.predicted_s))
            scheduler.drop_copies()
            resize(scheduler, waiting.pop(demand.step))
            scheduler.residency.check()
    assert not waiting


def _facts(demand: Demand, view: View | None = None) -> tuple[Any, ...]:
    """All that a policy is told, as values."""
    asked = (demand.layer, demand.step, list(demand.active), list(demand.tokens), demand.tokens_E.tolist())
    if view is None:
        return asked
    return (*asked, view.residency.state_LE.tolist(), view.residency.free_slots, view.link)


def _keeps_the_contract(told: Told) -> None:
    demand = told.plan.demand
    runs = {run.expert.expert: run for run in told.plan.runs}
    assert sorted(runs) == demand.active
    assert len(runs) == len(told.plan.runs)
    for run in told.plan.runs:
        assert run.expert.layer == demand.layer
        assert run.num_tokens == demand.tokens_of(run.expert.expert)
        assert run.lane is Lane.CPU or told.before_LE[run.expert] != ABSENT


LAWS: tuple[Callable[[Make], None], ...] = (
    it_says_what_it_is,
    each_active_expert_runs_once,
    predictions_are_seconds,
    demanded_copies_are_no_prefetches,
    prefetches_displace_only_idle_residents,
    it_works_without_prefetch,
    it_works_without_an_accelerator,
    what_it_is_given_stays_as_it_is,
    same_demand_same_plans,
    memory_is_used_within_bounds,
    the_number_of_slots_may_change,
)
