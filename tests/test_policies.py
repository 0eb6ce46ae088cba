"""Policies: the laws for every installed one, and each paper's rule on a small case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hetsched.dispatch import is_settled, pose
from hetsched.gallery import machine
from hetsched.plugins import installed
from hetsched.policy import Decision, View
from hetsched.scheduler import PlanError, Scheduler
from hetsched.testing.policies import HARDWARE, LAWS, SHAPE, Make, replay
from hetsched.types import Demand, ExpertId, Fetch, Lane, LinkState, Outcome, Phase, Run

POLICIES = sorted(installed("hetsched.policies"))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", POLICIES)
def test_laws(law: Callable[[Make], None], name: str) -> None:
    law(installed("hetsched.policies")[name].load())


def scheduler(policy: Any, slots: int, **options: Any) -> Scheduler:
    return Scheduler(SHAPE, machine(HARDWARE), slots * SHAPE.expert_bytes, policy=policy, **options)


def ask(made: Scheduler, layer: int, *experts: int) -> tuple[set[int], list[Fetch]]:
    """One decode layer: the experts run on the GPU, and what was fetched."""
    tokens_E = np.bincount(experts, minlength=SHAPE.num_experts)
    plan = made.step(made.demand(layer, tokens_E, 1, Phase.DECODE), LinkState())
    made.observe(Outcome(plan, 1e-4, plan.predicted_s))
    return {run.expert.expert for run in plan.runs if run.lane is Lane.GPU}, list(plan.fetches)


def test_layer_split_keeps_whole_last_layers() -> None:
    made = scheduler("layer-split", 30)
    assert {expert.layer for expert in made.residency.residents()} == {2, 3}
    assert len(made.residency.residents()) == 24
    assert ask(made, 2, 0, 5, 11)[0] == {0, 5, 11}
    assert ask(made, 1, 0, 5, 11)[0] == set()


def test_static_frequency_keeps_the_most_frequent() -> None:
    frequency_LE = np.zeros((SHAPE.num_layers, SHAPE.num_experts))
    frequency_LE[0, 3], frequency_LE[2, 7], frequency_LE[1, 1] = 9, 8, 7
    made = scheduler("static-frequency", 2, frequency_LE=frequency_LE)
    assert made.residency.residents() == [ExpertId(0, 3), ExpertId(2, 7)]


def test_lru_evicts_the_least_recently_used() -> None:
    made = scheduler("on-demand-lru", 4)
    ask(made, 0, 0, 1, 2)
    ask(made, 1, 5)
    ask(made, 0, 1)
    _, fetches = ask(made, 2, 8, 9)
    assert [fetch.victim for fetch in fetches] == [ExpertId(0, 0), ExpertId(0, 2)]


def test_lru_never_evicts_what_the_layer_needs() -> None:
    made = scheduler("on-demand-lru", 2)
    ask(made, 0, 0, 1)
    on_gpu, fetches = ask(made, 0, 0, 1, 2)
    assert on_gpu == {0, 1}
    assert fetches == []


def test_hetsched_adapts_to_a_change_of_topic() -> None:
    """Experts that come into fashion replace those that went out of it, without being told."""
    made = scheduler("hetsched", 6)
    for _ in range(150):
        for layer in range(SHAPE.num_layers):
            ask(made, layer, 0, 1, 2)
    hits = sum(ask(made, layer, 0, 1, 2)[0] != set() for layer in range(SHAPE.num_layers))
    in_fashion = [expert for expert in made.residency.residents() if expert.expert in (0, 1, 2)]
    assert len(in_fashion) + len(made.residency.copying()) >= 5
    assert hits >= 2


def test_hetsched_prefetches_only_while_the_link_is_idle() -> None:
    made = scheduler("hetsched", 6)
    busy = LinkState(free_s=1.0, in_flight=((ExpertId(3, 11), 1.0),))
    for _ in range(40):
        for layer in range(SHAPE.num_layers):
            tokens_E = np.bincount([7, 8, 9], minlength=SHAPE.num_experts)
            plan = made.step(made.demand(layer, tokens_E, 1, Phase.DECODE), busy)
            made.observe(Outcome(plan, 1e-4, plan.predicted_s))
            assert not [fetch for fetch in plan.fetches if fetch.prefetch]


@pytest.mark.parametrize("tokens", [1, 5])
def test_what_is_settled_is_optimal(tokens: int) -> None:
    """Wherever the solver is not asked, trying every choice finds nothing better."""
    made, random, settled = scheduler("hetsched", 20), np.random.default_rng(tokens), 0
    context = made.policy._machine  # type: ignore[attr-defined]
    for _ in range(300):
        choices = [random.choice(SHAPE.num_experts, SHAPE.top_k, replace=False) for _ in range(tokens)]
        tokens_E = np.bincount(np.concatenate(choices), minlength=SHAPE.num_experts)
        demand = made.demand(int(random.integers(4)), tokens_E, tokens, Phase.DECODE)
        view = View(made.residency, LinkState(free_s=float(random.choice([0.0, 1e-3]))))
        utility_LE = random.random((SHAPE.num_layers, SHAPE.num_experts)) * random.choice([1e-5, 1e-4, 1e-3])
        price_s = min(utility_LE[expert] for expert in made.residency.residents())
        if is_settled(demand, view, context, utility_LE, price_s):
            settled += 1
            problem = pose(demand, view, context, utility_LE).problem
            best_s = installed("hetsched.solvers")["brute"].load()().solve(problem).objective_s
            assert problem.objective_s(problem.incumbent()) <= best_s + 1e-12
    assert settled > 20


class Broken:
    """A policy that answers what it was told to."""

    name = "broken"

    def __init__(self, *ops: Any) -> None:
        self.ops = ops

    def start(self, machine: Any) -> list[ExpertId]:
        return [ExpertId(0, 0), ExpertId(0, 1)]

    def plan(self, demand: Demand, view: View) -> Decision:
        return Decision(self.ops, 1e-3)

    def observe(self, outcome: Outcome) -> None:
        """Nothing to learn."""


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((), "demanded"),
        ((Run(ExpertId(0, 0), 1, Lane.GPU, "x"), Run(ExpertId(0, 0), 1, Lane.CPU, "x")), "demanded"),
        ((Run(ExpertId(0, 0), 1, Lane.GPU, "x"), Run(ExpertId(0, 4), 1, Lane.GPU, "x")), "where it is not"),
        (
            (
                Fetch(ExpertId(0, 4), ExpertId(0, 0), False, "x"),
                Run(ExpertId(0, 0), 1, Lane.CPU, "x"),
                Run(ExpertId(0, 4), 1, Lane.GPU, "x"),
            ),
            "which is active",
        ),
    ],
)
def test_a_broken_policy_is_caught_before_anything_moves(ops: tuple[Any, ...], message: str) -> None:
    made = scheduler(Broken(*ops), 2)
    before = made.residency.state_LE.copy()
    with pytest.raises(PlanError, match=message):
        ask(made, 0, 0, 4)
    assert (made.residency.state_LE == before).all()


def test_steps_are_counted_by_layer_order() -> None:
    made = scheduler("cpu-only", 0)
    for _ in range(3):
        for layer in range(SHAPE.num_layers):
            ask(made, layer, 1)
    assert made.stats.steps == 3
    assert made.stats.decode_tokens == 3
    assert made.stats.hit_rate == 0
    assert made.tokens_LE.sum() == 12


def test_stats_count_hits_copies_and_waste() -> None:
    made = scheduler("on-demand-lru", 2)
    ask(made, 0, 0, 1)
    ask(made, 0, 0, 1)
    ask(made, 0, 2)
    stats = made.stats
    assert (stats.active, stats.hits, stats.demanded_fetches, stats.evictions) == (5, 2, 3, 1)
    assert stats.bytes_moved == 3 * SHAPE.expert_bytes
    assert stats.as_dict()["bytes_per_token"] == SHAPE.expert_bytes
    assert list(replay(lambda: made.policy, 2, steps=1))
