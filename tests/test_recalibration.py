"""Recalibration: the rule on one class of seconds, bounded and without oscillation; then schedulers that follow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetsched.board import ESTIMATE, FACTOR, LEAST_S, MOST_S, OF_COPY, OF_CPU, OF_GPU, TOOK_S, new_board, open_board
from hetsched.board.recalibration import BOUND, RATE, SEEN, entries
from hetsched.machine.drift import Drift, TrueMachine, slowed
from hetsched.machine.gallery import machine
from hetsched.recalibration import WRONG_BEYOND
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import SHAPE, demanded

HERE = machine("rtx-4060-laptop-8gb")
TRACE = demanded(220, 1)
STEPS = steps_of(TRACE, mode="decode")
CLASSES = ("gpu", "cpu", "copy", "dense")


class Class:
    """One class alone: each step predicts one second by the profile, and takes what it is told."""

    def __init__(self, c: int = OF_CPU) -> None:
        self.c = c
        self.arrays = new_board(1, 4, 1)
        self.watch_RC = open_board(*self.arrays).watch_RC

    @property
    def factor(self) -> float:
        return float(self.watch_RC[FACTOR, self.c])

    def step(self, true: float, contention: float = 1.0, learning: bool = True) -> float:
        """One step that took `true` times the profile's seconds; the factor after it."""
        predicted_s = self.factor
        self.watch_RC[[LEAST_S, MOST_S, TOOK_S], self.c] = predicted_s, predicted_s * contention, true
        entries.end_step(*self.arrays, learning)
        return self.factor

    def steps(self, trues: Sequence[float]) -> list[float]:
        return [self.step(true) for true in trues]


factors = st.floats(1e-4, 1e4)


@settings(deadline=None, max_examples=200)
@given(st.lists(factors, min_size=1, max_size=60))
def test_factors_are_bounded_and_never_leave_what_was_measured(trues: list[float]) -> None:
    """Whatever is measured: within 1 / BOUND to BOUND, and no further from 1 than the furthest measurement."""
    low, high = min(1.0, *trues), max(1.0, *trues)
    for factor in Class().steps(trues):
        assert 1 / BOUND * (1 - 1e-9) <= factor <= BOUND * (1 + 1e-9)
        assert low * (1 - 1e-9) <= factor <= high * (1 + 1e-9)


@settings(deadline=None, max_examples=100)
@given(st.floats(1 / BOUND, BOUND), st.floats(1 / BOUND, BOUND), st.integers(0, 40))
def test_a_change_is_followed_monotonically_within_50_steps(before: float, after: float, steps: int) -> None:
    """From any factor to any other: never away from it, never beyond, and there within 50 steps, to stay."""
    one = Class()
    one.steps([before] * steps)
    off = [abs(math.log(one.factor / after)), *(abs(math.log(one.step(after) / after)) for _ in range(50))]
    assert all(later <= sooner + 1e-9 for sooner, later in pairwise(off))
    signs = {math.log(factor / after) > 0 for factor in one.steps([after] * 5) if abs(math.log(factor / after)) > 1e-9}
    assert len(signs) <= 1
    assert off[-1] <= SEEN + 1e-9


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-0.2, 0.2), min_size=80, max_size=80), st.sampled_from([0.1, 1.0, 10.0]))
def test_noise_is_averaged_not_followed(noise: list[float], true: float) -> None:
    """Steps that scatter by a fifth about a truth leave the factor no further from it than they are."""
    factors = Class().steps([true * math.exp(x) for x in noise])
    assert max(abs(math.log(factor / true)) for factor in factors[3:]) <= 0.2 + SEEN


def test_one_odd_step_moves_nothing_and_a_lasting_change_does_from_its_second() -> None:
    one = Class()
    one.steps([1.0] * 10)
    assert one.steps([50.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]
    first, second = one.steps([10.0, 10.0])
    assert first == 1.0
    assert second == pytest.approx(10.0**RATE)


def test_a_profile_that_lies_is_put_right_by_its_second_step() -> None:
    """There is nothing to average with yet: the profile counts as two steps, and the third of three decides."""
    one = Class()
    assert one.steps([10.0, 10.0]) == [1.0, pytest.approx(10.0)]


def test_what_was_not_measured_and_what_contention_explains_teach_nothing() -> None:
    one = Class(OF_COPY)
    one.steps([3.0] * 20)
    before, estimate = one.factor, one.watch_RC[ESTIMATE, OF_COPY]
    for _ in range(100):
        entries.end_step(*one.arrays, True)  # an idle lane
    assert one.factor == before
    assert one.watch_RC[ESTIMATE, OF_COPY] == estimate
    two = Class()
    for true in (1.0, 1.2, 1.3, 1.0000000001, 0.9999999999):
        assert two.step(true, contention=1.3) == 1.0
    for _ in range(50):
        two.step(2.6, contention=1.3)
    assert two.factor == pytest.approx(2.0, rel=0.03)  # what is beyond, is


def test_without_learning_everything_is_counted_and_nothing_corrected() -> None:
    one = Class(OF_GPU)
    assert [one.step(7.0, learning=False) for _ in range(20)] == [1.0] * 20


class ByHand(Scheduler):
    """Replayed layer by layer: simulate() takes the compiled loop for a Scheduler alone."""


def replayed(
    believed: Any, true: Any, kind: type[Scheduler] = Scheduler, name: str = "hetsched", **options: Any
) -> Any:
    made = kind(
        SHAPE,
        believed,
        13 * SHAPE.expert_bytes,
        policy=name,
        history=demanded(10, 5),
        clock=ConstantClock(20e-6, 35e-6),
        **options,
    )
    return made, simulate(TRACE, STEPS, made, true_hardware=true)


LIES = [{part: factor} for part in ("gpu", "cpu", "link") for factor in (10.0, 0.1)]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_lying_profile_is_put_right_while_it_runs(lie: dict[str, float]) -> None:
    """hetsched believing a lie ends near hetsched with the truth; without recalibration it is counted and no more."""
    best = float(replayed(HERE, HERE)[1].step_s_S[60:].sum())
    believed = slowed(HERE, **lie)
    made, found = replayed(believed, HERE)
    assert found.step_s_S[60:].sum() <= 1.06 * best
    ((part, factor),) = lie.items()
    op = {"link": "copy"}.get(part, part)
    assert made.cost.corrections[op] == pytest.approx(1 / factor, rel=0.08)
    predictions = found.stats.as_dict()["predictions"]
    assert predictions[op]["factor"] == made.cost.corrections[op]
    plain, left = replayed(believed, HERE, recalibrate=False)
    assert set(plain.cost.corrections.values()) == {1.0}
    assert left.stats.as_dict()["predictions"]["dense"]["ratio"] == pytest.approx(
        0.1 if lie.get("gpu") == 10 else 10.0 if "gpu" in lie else 1.0
    )


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_both_loops_learn_alike(lie: dict[str, float]) -> None:
    true = TrueMachine(HERE, (Drift(0), Drift(70, link=8.0, cpu=2.0), Drift(140, gpu=3.0)))
    (quick, found), (slow, expected) = (replayed(slowed(HERE, **lie), true, kind) for kind in (Scheduler, ByHand))
    np.testing.assert_allclose(found.step_s_S, expected.step_s_S, rtol=1e-9)
    assert (found.counts_SC == expected.counts_SC).all()
    np.testing.assert_allclose(quick.recalibration.factor_C, slow.recalibration.factor_C, rtol=1e-9)
    assert quick.cost.corrections == dict(zip(CLASSES, quick.recalibration.factor_C, strict=True))
    np.testing.assert_array_equal(quick.seconds.table(1)[0, 1], quick.cost.each_gpu_s((1,))[0])


class Watched(Scheduler):
    """Notes the factors at each step."""

    def begin_notes(self) -> None:
        self.noted: list[list[float]] = []

    def step(self, *args: Any) -> Any:
        plan = super().step(*args)
        if plan.demand.layer == 0:
            self.noted.append(self.recalibration.factor_C.tolist())
        return plan


@pytest.mark.parametrize("drift", [{"gpu": 3.0}, {"cpu": 3.0}, {"link": 10.0}, {"cpu": 0.25}], ids=str)
def test_a_drifting_machine_is_followed_within_50_steps_without_oscillation(drift: dict[str, float]) -> None:
    """A throttling GPU, a busy CPU, a link that loses nine tenths: each factor goes to the new one, and stays there."""
    made = Watched(SHAPE, HERE, 13 * SHAPE.expert_bytes, history=demanded(10, 5), clock=ConstantClock(2e-5, 3.5e-5))
    made.begin_notes()
    simulate(TRACE, STEPS, made, true_hardware=TrueMachine(HERE, (Drift(60)._replace(**drift),)))
    noted_SC = np.array(made.noted)
    ((part, factor),) = drift.items()
    c = CLASSES.index({"link": "copy"}.get(part, part))
    assert (noted_SC[:61] == 1.0).all()
    off_S = np.abs(np.log(noted_SC[60:, c] / factor))
    assert off_S[50] < 0.08
    assert (off_S[50:] < 0.08).all()
    assert (np.diff(off_S) < 0.06).all()  # never away from it by more than contention hides
    others = [i for i in range(4) if i != c and not (part == "gpu" and i == 3)]
    # A slow link slows the CPU lane's round trip too, which is the CPU's until the link's factor is known.
    np.testing.assert_allclose(noted_SC[120 if part == "link" else 0 :, others], 1.0, rtol=0.08)


@pytest.mark.parametrize("name", ["hetsched", "hybrimoe", "on-demand-lru", "moe-infinity", "cpu-only"])
@pytest.mark.parametrize("hardware", ["rtx-4060-laptop-8gb", "jetson-agx-orin-64gb"])
def test_where_the_profile_is_right_every_factor_stays_exactly_1(name: str, hardware: str) -> None:
    """Contention included, prefill and verify steps too: no noise enters, and predictions equal measurements."""
    made = Scheduler(
        SHAPE, machine(hardware), 13 * SHAPE.expert_bytes, policy=name, history=TRACE, clock=ConstantClock(2e-5)
    )
    simulate(demanded(60, 2), steps_of(demanded(60, 2), mode="recorded"), made)
    assert made.recalibration.factor_C.tolist() == [1.0] * 4
    assert made.cost.version == 0
    for figures in made.stats.as_dict()["predictions"].values():
        assert 0.6 < figures["ratio"] < 1.5


def test_far_off_is_told_once_and_a_user_is_warned() -> None:
    """A fault in the statistics beyond a factor of WRONG_BEYOND; a line only where a model runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made, found = replayed(slowed(HERE, cpu=10.0), HERE)
        replayed(slowed(HERE, cpu=WRONG_BEYOND * 0.9), HERE)
    assert found.stats.faults == {"profile far off": 1}
    assert made.stats.last_fault["profile far off"].startswith("cpu takes 0.1 times")
    with pytest.warns(RuntimeWarning, match="hetsched profile"):
        replayed(slowed(HERE, cpu=10.0), HERE, ByHand, degrade=True)
