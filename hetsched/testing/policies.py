"""Laws that every policy keeps, over a replayed run. Third parties run them on theirs: `for law in LAWS: law(make)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..gallery import machine
from ..geometry import MoEGeometry
from ..policy import Policy
from ..residency import PINNED
from ..scheduler import Scheduler
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Phase, Plan, Run

Make = Callable[[], Policy]
SHAPE = MoEGeometry("law", num_layers=4, num_experts=12, top_k=3, hidden=1024, ffn=2048, dense_params=4_000_000)
HARDWARE = "rtx-4060-laptop-8gb"


def replay(make: Make, slots: int, *, steps: int = 30, seed: int = 0) -> Iterator[tuple[Scheduler, Plan]]:
    """A policy on a skewed random demand: a prefill, decode and verify steps; prefetches arrive a layer later."""
    scheduler = Scheduler(SHAPE, machine(HARDWARE), slots * SHAPE.expert_bytes, policy=make())
    random = np.random.default_rng(seed)
    skew = random.dirichlet(np.full(SHAPE.num_experts, 0.5), SHAPE.num_layers)
    arrived: tuple[ExpertId, ...] = ()
    for step in range(steps):
        phase = Phase.PREFILL if step == 0 else Phase.VERIFY if step % 5 == 0 else Phase.DECODE
        num_tokens = {Phase.PREFILL: 20, Phase.VERIFY: 4, Phase.DECODE: 1}[phase]
        for layer in range(SHAPE.num_layers):
            p_E = 0.9 * skew[layer] + 0.1 / SHAPE.num_experts
            draws = [random.choice(SHAPE.num_experts, SHAPE.top_k, False, p_E) for _ in range(num_tokens)]
            tokens_E = np.bincount(np.concatenate(draws), minlength=SHAPE.num_experts)
            demand = scheduler.demand(layer, tokens_E, num_tokens, phase)
            plan = scheduler.step(demand, LinkState(arrived=arrived))
            arrived = tuple(fetch.expert for fetch in plan.fetches if fetch.prefetch)
            scheduler.residency.check()
            yield scheduler, plan
            scheduler.observe(Outcome(plan, 1e-4, plan.predicted_s))


def each_active_expert_runs_once(make: Make) -> None:
    """Exactly one Run per active expert, with its tokens; a GPU run is of an expert that is or comes there."""
    for slots in (0, 1, 7, 24, 48):
        for scheduler, plan in replay(make, slots, steps=8):
            runs = {run.expert.expert: run for run in plan.runs}
            assert sorted(runs) == plan.demand.active_N.tolist()
            assert len(runs) == len(plan.runs)
            for run in plan.runs:
                assert run.num_tokens == plan.demand.tokens_E[run.expert.expert]
                assert run.lane is Lane.CPU or scheduler.residency.state_LE[run.expert] > 0


def predictions_are_seconds(make: Make) -> None:
    """The expected makespan is finite and positive."""
    for _, plan in replay(make, 12, steps=5):
        assert 0 < plan.predicted_s < math.inf


def fetches_come_before_what_needs_them(make: Make) -> None:
    """Demanded fetches precede prefetches, and a fetched expert's run follows its fetch; every op has a cause."""
    for _, plan in replay(make, 9, steps=10):
        kinds = [op.prefetch for op in plan.ops if isinstance(op, Fetch)]
        assert kinds == sorted(kinds)
        place = {op.expert: i for i, op in enumerate(plan.ops) if isinstance(op, Fetch) and not op.prefetch}
        assert all(place.get(op.expert, -1) < i for i, op in enumerate(plan.ops) if isinstance(op, Run))
        assert all(op.cause for op in plan.ops)


def same_demand_same_plans(make: Make) -> None:
    """A policy is deterministic: the same demands give the same ops."""
    first, second = ([plan.ops for _, plan in replay(make, 10, seed=3)] for _ in range(2))
    assert first == second


def memory_is_used_within_bounds(make: Make) -> None:
    """Never more experts than slots."""
    for scheduler, _ in replay(make, 5):
        used = int(np.count_nonzero(scheduler.residency.state_LE))
        assert used <= scheduler.residency.num_slots == 5
        assert scheduler.residency.state_LE.max() <= PINNED


LAWS: tuple[Callable[[Make], None], ...] = (
    each_active_expert_runs_once,
    predictions_are_seconds,
    fetches_come_before_what_needs_them,
    same_demand_same_plans,
    memory_is_used_within_bounds,
)
