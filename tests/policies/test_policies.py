"""Policies: the laws for every installed one, and each paper's rule on a small case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from hetsched.board import COPY_S, FETCHES, GPU_CALL_S, RUNS
from hetsched.board.contract import open_board
from hetsched.deciders.compiled import posed_on
from hetsched.deciders.views import Views
from hetsched.errors import InputError
from hetsched.machine.gallery import machine
from hetsched.plugins import installed
from hetsched.policies import pose_kernels, settle_kernels
from hetsched.policy import Decision, Traits, View, traits_of
from hetsched.residency import ResidencyError
from hetsched.scheduler import PlanError, Scheduler
from hetsched.testing.policies import HARDWARE, LAWS, SHAPE, Make, replay
from hetsched.types import Copies, Demand, Evict, ExpertId, Fetch, FloatArray, Lane, LinkState, Outcome, Phase, Run

POLICIES = sorted(installed("hetsched.policies"))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", POLICIES)
def test_laws(law: Callable[[Make], None], name: str) -> None:
    law(installed("hetsched.policies")[name].load())


def scheduler(policy: Any, slots: int, **options: Any) -> Scheduler:
    return Scheduler(SHAPE, machine(HARDWARE), slots * SHAPE.expert_bytes, policy=policy, **options)


def ask(made: Scheduler, layer: int, *experts: int) -> tuple[set[int], list[Fetch]]:
    """One decode layer, in which the copies of the last one have arrived: experts run on the GPU, demanded fetches."""
    tokens_E = np.bincount(experts, minlength=SHAPE.num_experts)
    arrived = LinkState(arrived=tuple(made.residency.copying()))
    plan = made.step(made.demand(layer, tokens_E, 1, Phase.DECODE), arrived)
    made.prefetch()
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
    made, idle = scheduler("hetsched", 6), 0
    busy = LinkState(free_s=1.0, in_flight=((ExpertId(3, 11), 1.0),))
    for step in range(40):
        for layer in range(SHAPE.num_layers):
            tokens_E = np.bincount([7, 8, 9], minlength=SHAPE.num_experts)
            plan = made.step(
                made.demand(layer, tokens_E, 1, Phase.DECODE), LinkState(arrived=tuple(made.residency.copying()))
            )
            fetches = made.prefetch(busy if step < 20 else LinkState()).fetches
            assert not (fetches and step < 20)
            idle += len(fetches)
            made.observe(Outcome(plan, 1e-4, plan.predicted_s))
    assert idle > 0


@njit
def settled_on(
    bytes_B: Any, ints_I: Any, floats_R: Any, seconds_4T: FloatArray, utility_F: FloatArray, price_s: float
) -> bool:
    """settle_kernels.settle, and then the problem that a solver would have got."""
    board = open_board(bytes_B, ints_I, floats_R)
    board.at[RUNS] = board.at[FETCHES] = 0
    settled = settle_kernels.settle(board, seconds_4T, utility_F, price_s)
    pose_kernels.pose(board, seconds_4T, utility_F, price_s)
    return settled


def test_what_is_settled_is_optimal() -> None:
    """Wherever the solver is not asked for one token, trying every choice finds nothing better."""
    made, random, fetched, moved = scheduler("hetsched", 20), np.random.default_rng(1), 0, 0
    brute, views = installed("hetsched.solvers")["brute"].load()(), Views(made.board)
    for turn in range(400):
        if turn % 40 == 20:
            made.residency.apply(Evict(made.residency.residents()[0], "a slot becomes free"))
        gpu_s, cpu_s, copy_s, roundtrip_s = random.choice([0.0, 0.3, 1.0, 2.5], 4).tolist()
        made.board.machine[COPY_S] = copy_s + 0.1
        made.board.machine[GPU_CALL_S] = float(random.choice([0.0, 0.3, 4.0]))
        seconds_4T = np.array([[0.0, s] for s in (gpu_s + 0.1, cpu_s + 0.1, 1.0, roundtrip_s)])
        tokens_E = np.bincount(random.choice(SHAPE.num_experts, 5, replace=False), minlength=SHAPE.num_experts)
        demand = made.demand(int(random.integers(4)), tokens_E, 1, Phase.DECODE)
        views.tell(demand, LinkState(free_s=float(random.choice([0.0, 0.5]))))
        utility_LE = random.random((SHAPE.num_layers, SHAPE.num_experts)) * random.choice([0.01, 0.5, 3.0])
        price_s = float(random.choice([0.0, 0.2]))
        assert settled_on(*made.arrays, seconds_4T, utility_LE.reshape(-1), price_s)
        problem, decision = posed_on(made.board), views.plan(demand)
        new = {fetch.expert.expert for fetch in decision.fetches}
        on_gpu = {run.expert.expert for run in decision.runs if run.lane is Lane.GPU}
        choice_N = np.array([2 if e in new else int(e in on_gpu) for e in demand.active], np.int8)
        fetched, moved = fetched + len(new), moved + (len(on_gpu - new) < (problem.ready_s_N == 0).sum())
        assert decision.predicted_s == pytest.approx(problem.makespan_s(choice_N))
        assert problem.objective_s(choice_N) == pytest.approx(brute.solve(problem).objective_s, abs=1e-12)
        victims = [fetch.victim for fetch in decision.fetches]
        paid_s = sum(0.0 if victim is None else utility_LE[victim] for victim in victims) + price_s * len(victims)
        assert paid_s == pytest.approx(problem.victim_price_V[: len(victims)].sum())
    assert fetched > 50
    assert moved > 5


def test_what_is_in_flight_is_left_to_the_solver() -> None:
    made = scheduler("hetsched", 20)
    views, seconds_4T = Views(made.board), np.ones((4, 2))
    absent = next(e for e in range(SHAPE.num_experts) if made.residency.state_LE[0, e] == 0)
    made.residency.apply(Fetch(ExpertId(0, absent), made.residency.residents()[-1], True, "test"))
    for active, settled in (([absent], False), ([e for e in range(SHAPE.num_experts) if e != absent][:3], True)):
        tokens_E = np.bincount(active, minlength=SHAPE.num_experts)
        views.tell(made.demand(0, tokens_E, 1, Phase.DECODE), LinkState())
        assert settled_on(*made.arrays, seconds_4T, np.ones(SHAPE.num_layers * SHAPE.num_experts), 0.0) is settled


class Broken:
    """A policy that answers what it was told to, and notes what it is asked."""

    name = "broken"

    def __init__(self, runs: tuple[Run, ...], fetches: tuple[Fetch, ...] = (), copies: tuple[Fetch, ...] = ()) -> None:
        self.answers = runs, fetches, copies
        self.learned = 0

    def start(self, machine: Any) -> list[ExpertId]:
        return [ExpertId(0, 0), ExpertId(0, 1)]

    def plan(self, demand: Demand, view: View) -> Decision:
        return Decision(*self.answers[:2], predicted_s=1e-3)

    def observe(self, demand: Demand) -> None:
        self.learned += 1

    def prefetch(self, demand: Demand, view: View) -> tuple[Fetch, ...]:
        return self.answers[2]


def on(lane: Lane, *experts: int) -> tuple[Run, ...]:
    return tuple(Run(ExpertId(0, e), 1, lane, "x") for e in experts)


@pytest.mark.parametrize(
    ("runs", "fetches", "message"),
    [
        ((), (), "demanded"),
        (on(Lane.GPU, 0) + on(Lane.CPU, 0), (), "demanded"),
        (on(Lane.GPU, 0, 4), (), "where it is not"),
        (on(Lane.CPU, 0) + on(Lane.GPU, 4), (Fetch(ExpertId(0, 4), ExpertId(0, 0), False, "x"),), "which is active"),
    ],
)
def test_a_broken_policy_is_caught_before_anything_moves(
    runs: tuple[Run, ...], fetches: tuple[Fetch, ...], message: str
) -> None:
    made = scheduler(Broken(runs, fetches), 2)
    before = made.residency.state_LE.copy()
    with pytest.raises(PlanError, match=message):
        ask(made, 0, 0, 4)
    assert (made.residency.state_LE == before).all()


@pytest.mark.parametrize(
    ("fetch", "error", "message"),
    [
        (Fetch(ExpertId(2, 4), ExpertId(0, 0), True, "x"), PlanError, "which is active"),
        (Fetch(ExpertId(0, 1), None, True, "x"), ResidencyError, "fetched while RESIDENT"),
        (Fetch(ExpertId(2, 4), ExpertId(2, 5), True, "x"), ResidencyError, "evicted while ABSENT"),
        (Fetch(ExpertId(2, 4), None, True, "x"), ResidencyError, "there is none"),
    ],
)
def test_a_broken_prefetch_is_caught(fetch: Fetch, error: type[Exception], message: str) -> None:
    made = scheduler(Broken(on(Lane.GPU, 0), copies=(fetch,)), 2)
    before = made.residency.state_LE.copy()
    with pytest.raises(error, match=message):
        ask(made, 0, 0)
    assert (made.residency.state_LE == before).all()


@pytest.mark.parametrize("prefetch", [True, False])
def test_each_demand_is_learned_once(prefetch: bool) -> None:
    """While the lanes work where prefetches are asked for, else when the outcome is in."""
    policy = Broken(on(Lane.GPU, 0), copies=(Fetch(ExpertId(2, 4), ExpertId(0, 1), True, "x"),))
    made = scheduler(policy, 2, clock=iter(range(100)).__next__)
    assert made.prefetch() == Copies()
    tokens_E = np.bincount([0], minlength=SHAPE.num_experts)
    plan = made.step(made.demand(0, tokens_E, 1, Phase.DECODE))
    if prefetch:
        copies = made.prefetch()
        assert [fetch.expert for fetch in copies.fetches] == [ExpertId(2, 4)]
        assert made.residency.copying() == [ExpertId(2, 4)]
        assert made.stats.overlapped_s == copies.decision_s == 1
        assert made.prefetch() == Copies()
    assert policy.learned == prefetch
    made.observe(Outcome(plan, 1e-4, plan.predicted_s))
    assert policy.learned == 1
    assert made.tokens_LE.sum() == 1
    assert made.stats.prefetches == prefetch


def _tries() -> dict[str, Callable[[Demand, View], object]]:
    """Ways to change what a policy is shown, each of which raises or is found out."""
    return {
        "states": lambda demand, view: view.residency.state_LE.fill(2),
        "slots": lambda demand, view: view.residency.slot_LE.__setitem__((0, 0), 7),
        "one change": lambda demand, view: view.residency.apply(Evict(ExpertId(0, 0), "mine")),  # type: ignore[attr-defined]
        "the board": lambda demand, view: view.residency._board.at.__setitem__(0, 1),
        "who is active": lambda demand, view: demand.active.pop(),
        "their tokens": lambda demand, view: demand.tokens.__setitem__(0, 5),
        "tokens of all": lambda demand, view: demand.tokens_E.fill(1),
        "router weights": lambda demand, view: demand.weights_E.fill(1.0),  # type: ignore[union-attr]
        "the link": lambda demand, view: setattr(view.link, "free_s", 9.0),
    }


@pytest.mark.parametrize("method", ["plan", "observe", "prefetch"])
@pytest.mark.parametrize("way", sorted(_tries()))
def test_what_a_policy_is_shown_cannot_be_changed(way: str, method: str) -> None:
    """An attempt raises, and demand, residency and board are as they were."""

    class Vandal(Broken):
        traits = Traits(uses_weights=True)

        def plan(self, demand: Demand, view: View) -> Decision:
            if method == "plan":
                _tries()[way](demand, view)
            self.view = view
            return super().plan(demand, view)

        def observe(self, demand: Demand) -> None:
            if method == "observe":
                _tries()[way](demand, self.view)

        def prefetch(self, demand: Demand, view: View) -> tuple[Fetch, ...]:
            if method == "prefetch":
                _tries()[way](demand, view)
            return ()

    made = scheduler(Vandal(on(Lane.GPU, 0, 1)), 2)
    weights_E = np.linspace(0.0, 1.0, SHAPE.num_experts)
    tokens_E = np.bincount([0, 1], minlength=SHAPE.num_experts)
    demand = made.demand(0, tokens_E, 1, Phase.DECODE, weights_E)
    before = made.residency.state_LE.copy(), made.residency.slot_LE.copy(), weights_E.copy()

    def layer() -> None:
        made.step(demand)
        made.prefetch()

    with pytest.raises((ValueError, AttributeError, PlanError)):
        layer()
    assert (demand.active, demand.tokens) == ([0, 1], [1, 1])
    assert demand.tokens_E.tolist() == [1, 1] + [0] * (SHAPE.num_experts - 2)
    assert (made.residency.state_LE == before[0]).all()
    assert (made.residency.slot_LE == before[1]).all()
    assert (weights_E == before[2]).all()
    made.residency.check()


def test_calibration_cannot_be_changed() -> None:
    class Vandal(Broken):
        def start(self, machine: Any) -> list[ExpertId]:
            machine.frequency_LE[0, 0] = 1e9
            return []

    with pytest.raises(ValueError, match="read-only"):
        scheduler(Vandal(()), 2, frequency_LE=np.ones((SHAPE.num_layers, SHAPE.num_experts)))


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_declares_its_family(name: str) -> None:
    declared = traits_of(installed("hetsched.policies")[name].load())
    assert declared.family
    assert declared.clairvoyant == (name == "belady")
    assert declared.uses_solver == (name == "hetsched")
    assert declared.uses_weights == (name == "hybrimoe")


def test_traits_have_defaults_and_a_type() -> None:
    assert traits_of(Broken(())) == Traits() == Traits("", False, True, "", False, False)
    wrong = type("Wrong", (Broken,), {"traits": {"family": "mine"}})
    with pytest.raises(InputError, match=r"traits = Traits\(family=...\)"):
        scheduler(wrong(()), 2)


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
