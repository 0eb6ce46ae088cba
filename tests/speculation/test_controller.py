"""The controller against made-up machines whose best number of drafts is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.cost.model import CostModel
from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine import gallery
from hetsched.speculation.acceptance import Acceptance
from hetsched.speculation.controller import TRIAL_SHARE, Controller
from hetsched.speculation.step_seconds import EvenStep, ModelledStep, StepSeconds
from hetsched.speculation.union import ExpertUnion, HitRate

K_MAX = 8


class World(NamedTuple):
    """A machine and a drafter: a step of n tokens takes 1 + slope (n - 1), each draft is kept with `accept`."""

    accept: float
    slope: float
    draft_s: float = 0.0
    given: float = 1.0

    def best(self) -> tuple[float, int]:
        """The highest rate that any fixed number of drafts has, and that number, in closed form."""
        return max((self.rate(k), k) for k in range(K_MAX + 1))

    def rate(self, k: int) -> float:
        tokens = 1 + self.given * sum(self.accept**i for i in range(1, k + 1))
        return tokens / (1 + self.given * (self.slope + self.draft_s) * k)


def run(controller: Controller, world: World, steps: int, seed: int = 0) -> tuple[float, list[int]]:
    """Tokens a second, and what was asked for in every step; steps are 5 % noisy."""
    random = np.random.default_rng(seed)
    tokens = seconds = 0.0
    asked = []
    for _ in range(steps):
        k = controller.choose()
        drafted = k if random.random() < world.given else 0
        accepted = 0
        while accepted < drafted and random.random() < world.accept:
            accepted += 1
        step_s, draft_s = (1 + world.slope * drafted) * random.lognormal(0, 0.05), world.draft_s * drafted
        controller.observe(drafted, accepted, step_s, draft_s)
        tokens, seconds = tokens + 1 + accepted, seconds + step_s + draft_s
        asked.append(k)
    return tokens / seconds, asked


PAYS = [World(0.9, 0.1), World(0.8, 0.3, 0.05), World(0.6, 0.1, 0.1), World(0.7, 0.3, 0.0, 0.4), World(0.95, 0.02)]
DOES_NOT = [World(0.05, 0.1, 0.05), World(0.3, 0.6, 0.1), World(0.7, 1.0, 0.1), World(0.1, 0.3, 0.0, 0.4)]


@pytest.mark.parametrize("world", PAYS + DOES_NOT)
def test_nearly_as_fast_as_the_best_fixed_number(world: World) -> None:
    """From knowing nothing: once it has found its way it is within 5 % of what the best fixed K is expected to do."""
    rates = []
    for seed in range(5):
        controller = Controller(K_MAX)
        run(controller, world, 200, seed=100 + seed)
        rates.append(run(controller, world, 1200, seed=1 + seed)[0])
    assert np.mean(rates) > 0.95 * world.best()[0]


@pytest.mark.parametrize("world", DOES_NOT)
def test_it_stops_where_drafts_do_not_pay(world: World) -> None:
    controller = Controller(K_MAX)
    run(controller, world, 200)
    rate, asked = run(controller, world, 600, seed=1)
    assert world.best()[1] == 0
    assert np.median(asked) == 0
    assert np.mean(np.array(asked) > 2) < 0.02
    assert rate > 1 - 3 * TRIAL_SHARE


@pytest.mark.parametrize(
    "other", [World(0.05, 0.2, 0.05), World(0.9, 1.5, 0.05)], ids=["nobody accepts", "the union grows"]
)
def test_it_follows_a_change_and_comes_back(other: World) -> None:
    good, controller = World(0.9, 0.2, 0.05), Controller(K_MAX)
    assert np.median(run(controller, good, 300)[1][-100:]) >= 3
    assert np.median(run(controller, other, 300, seed=1)[1][-100:]) == 0
    assert np.median(run(controller, good, 500, seed=2)[1][-100:]) >= 2


def test_it_does_not_flap() -> None:
    """Apart from trials, one in eight steps at most, the number changes seldom."""
    controller = Controller(K_MAX)
    run(controller, World(0.7, 0.2, 0.05), 200)
    usual = []
    for seed in range(400):
        run(controller, World(0.7, 0.2, 0.05), 1, seed)
        usual.append(controller.usual)
    assert sum(a != b for a, b in pairwise(usual)) < 20


def test_the_same_history_gives_the_same_choices() -> None:
    one, other = (run(Controller(K_MAX), PAYS[0], 300)[1] for _ in range(2))
    assert one == other


def test_a_fixed_number_is_always_asked_for() -> None:
    assert set(run(Controller(3, fixed=True), PAYS[0], 50)[1]) == {3}


def test_what_it_cannot_be_told() -> None:
    with pytest.raises(InputError, match="k_max -1"):
        Controller(-1)
    for drafted, accepted in ((2, 3), (9, 0), (1, -1)):
        with pytest.raises(InputError, match="drafts accepted"):
            Controller(K_MAX).observe(drafted, accepted, 1.0, 0.0)


def test_the_record_counts_what_was_observed() -> None:
    controller = Controller(4)
    controller.observe(4, 3, 1.0, 0.5, asked=4)
    controller.observe(0, 0, 0.5, 0.0, asked=0)
    facts = controller.record.as_dict()
    assert (facts["acceptance"], facts["mean_k"], facts["go_share"]) == (0.75, 2.0, 0.5)
    assert facts["tokens_per_s"] == 5 / 2.0


@given(st.floats(0.05, 0.95), st.integers(2, 6))
def test_acceptance_is_learned_by_position(rate: float, only: int) -> None:
    """Positions up to `only` succeed at a rate, the next always fails; positions nobody reached believe the others."""
    random, learned = np.random.default_rng(only), Acceptance(8)
    for _ in range(400):
        won = 0
        while won < only and random.random() < rate:
            won += 1
        learned.observe(won, True)
    rates_K = learned.rates_K()
    assert abs(rates_K[0] - rate) < 0.35
    assert ((rates_K > 0) & (rates_K < 1)).all()
    assert rates_K[7] == rates_K[only + 1]


def test_what_is_old_weighs_less_and_says_the_same() -> None:
    fresh, aged = Acceptance(2), Acceptance(2)
    for learned in (fresh, aged):
        for turn in range(40):
            learned.observe(turn % 2, turn % 2 == 0)
    for _ in range(500):
        aged.age()
    before = aged.rates_K()[0]
    assert abs(before - fresh.rates_K()[0]) < 0.1
    fresh.observe(1, False)
    aged.observe(1, False)
    assert aged.rates_K()[0] - before > 2 * (fresh.rates_K()[0] - 0.5)


GEOMETRY = MoEGeometry("made-up", 4, 32, 4, 64, 64)


def test_the_union_is_below_that_of_independent_draws_and_learns_how_tokens_agree() -> None:
    union = ExpertUnion(GEOMETRY)
    assert union.active(1) == pytest.approx(4)
    assert 4 < union.active(5) < 32 * (1 - (1 - 4 / 32) ** 5)
    for _ in range(200):
        union.observe(5, 8.0)
    assert union.active(5) == pytest.approx(8.0, rel=0.02)
    assert 4 < union.active(3) < 8 < union.active(9)
    assert union.active(1) == pytest.approx(4)


def test_steps_are_predicted_by_the_lanes_and_grow_with_tokens_and_misses() -> None:
    cost = CostModel(gallery.machine("rtx-4060-laptop-8gb"), gallery.model("gpt-oss-20b"))
    step = ModelledStep(cost)
    before = [step.predicted_s(n) for n in range(1, 9)]
    assert before == sorted(before)
    assert before[7] < 8 * before[0]
    for _ in range(200):
        step.show(1, 4.0, 4.0)  # everything is there
    assert step.predicted_s(1) < before[0]
    everything = cost.geometry.num_layers * (cost.dense_s(1) + cost.gpu_call_s() + 4 * float(cost.gpu_s(1)))
    assert step.predicted_s(1) == pytest.approx(everything, rel=0.2)


def test_hit_rates_fade_as_unions_grow() -> None:
    """From steps of one and of two tokens; where everything or nothing is there it stays so."""
    learned = HitRate()
    assert learned.expected(1.0) > learned.expected(1.5) > learned.expected(3.0) > 0
    for _ in range(300):
        learned.observe(1.0, 0.6)
        learned.observe(1.5, 0.5)
    assert learned.expected(1.0) == pytest.approx(0.6, abs=0.01)
    assert learned.expected(1.5) == pytest.approx(0.5, abs=0.01)
    assert 0.2 < learned.expected(3.0) < 0.4
    for rate in (1.0, 0.0):
        for _ in range(600):
            learned.observe(1.0, rate)
        assert learned.expected(2.0) == pytest.approx(rate, abs=0.03)


@pytest.mark.parametrize("hits", [1.0, 2.5, 3.5])
def test_a_step_is_as_long_as_its_layers_are_on_average(hits: float) -> None:
    """Against layers drawn one by one: each expert is there or not, and the best split of the others is taken."""
    cost = CostModel(gallery.machine("rtx-4090"), gallery.model("gpt-oss-20b"))
    step, random = ModelledStep(cost), np.random.default_rng(0)
    for _ in range(300):
        step.show(1, 4.0, hits)
    gpu_s, cpu_s, copy_s = float(cost.gpu_s(1)), float(cost.cpu_s(1)), cost.copy_s()

    def layer_s(there: int) -> float:
        ends = []
        for fetched in range(4 - there + 1):
            cpu = 4 - there - fetched
            gpu_end_s = cost.gpu_call_s() + (there + fetched) * gpu_s if there + fetched else 0.0
            link_end_s = fetched * copy_s + gpu_s if fetched else 0.0
            ends.append(max(gpu_end_s, link_end_s, cost.cpu_start_s(1) + cpu * cpu_s if cpu else 0.0))
        return min(ends)

    drawn_s = np.mean([layer_s(there) for there in random.binomial(4, hits / 4, 4000).tolist()])
    assert step.predicted_s(1) == pytest.approx(cost.geometry.num_layers * (cost.dense_s(1) + drawn_s), rel=0.05)


@given(st.floats(0.1, 10.0), st.floats(0.0, 1.0))
def test_measured_lengths_are_believed(level: float, slope: float) -> None:
    learned = StepSeconds(EvenStep())
    true: Callable[[int], float] = lambda n: level * (1 + slope * (n - 1))  # noqa: E731
    for _ in range(60):
        for n in (1, 3, 5):
            learned.observe(n, true(n))
    assert all(learned.seconds(n) == pytest.approx(true(n), rel=0.05) for n in (1, 3, 5))
    assert min(true(3), true(5)) * 0.5 < learned.seconds(4) < max(true(3), true(5)) * 1.5


def test_one_hiccup_changes_little() -> None:
    learned = StepSeconds(EvenStep())
    for _ in range(30):
        learned.observe(1, 1.0)
    learned.observe(1, 1000.0)
    learned.observe(1, float("nan"))
    assert learned.seconds(1) < 1.5
