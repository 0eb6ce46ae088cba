"""Looking ahead as often as it pays: the rule by itself, and a scheduler and a replay that follow it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from hetsched.board import new_board, open_board
from hetsched.board.seconds import Seconds
from hetsched.cost.model import CostModel
from hetsched.deciders.notes import LayerNotes
from hetsched.deciders.pace import EVERY, WINDOW, Pace, account, begin, new_pace, outlasted_s
from hetsched.geometry import MoEGeometry
from hetsched.machine import gallery
from hetsched.policies.utility import Utility
from hetsched.replay.simulator import ConstantClock, Replay, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import SHAPE, demanded
from hetsched.types import Copies, Demand, ExpertId, Fetch, LinkState, Outcome, Phase, Plan

TINY = replace(SHAPE, name="experts of microseconds", hidden=64, ffn=16, dense_params=1_000)


def looked(numbers_P: Any, steps: int, cost_s: float, gain_s: float) -> list[bool]:
    """Which of so many steps were looked ahead in, where each look costs and gains so much."""
    found = []
    for _ in range(steps):
        found.append(bool(begin(numbers_P, False)))
        account(numbers_P, cost_s * found[-1], gain_s * found[-1])
    return found


def test_what_pays_is_done_in_every_step() -> None:
    """Also where neither costs nor gains anything."""
    assert all(looked(new_pace(64), 500, 1.0, 1.0))
    assert all(looked(new_pace(64), 500, 0.0, 0.0))
    assert all(looked(new_pace(1), 500, 2.0, 1.0))
    assert all(looked(new_pace(0), 500, 2.0, 1.0))


def test_what_does_not_pay_is_done_ever_less() -> None:
    """Whole windows of every step, every second, every fourth ..., up to the most."""
    found, at = looked(new_pace(8), WINDOW * (1 + 2 + 4) + 8 * 40, 2.0, 1.0), 0
    for every in (1, 2, 4):
        assert sum(found[at : at + WINDOW * every]) == WINDOW
        at += WINDOW * every
    assert sum(found[at:]) == 40
    places = np.flatnonzero(found[at:])
    assert set(np.diff(places)) == {8}


def test_fewer_are_tried_again_and_less_often_if_in_vain() -> None:
    """What pays only every fourth step settles there: tries of every second become rare."""
    numbers_P, tries = new_pace(64), []
    for step in range(20_000):
        every = numbers_P[EVERY]
        if begin(numbers_P, False):
            account(numbers_P, 2.0, 1.0 if numbers_P[EVERY] < 4 else 3.0)
        if (every, numbers_P[EVERY]) == (4, 2):
            tries.append(step)
    assert numbers_P[EVERY] in (2, 4)
    gaps = np.diff(tries)
    assert (gaps[:4] > 0).all()
    assert gaps[3] > 2 * gaps[0]
    assert gaps.max() <= 4 * WINDOW * 16 + 2 * WINDOW + 8


def test_when_it_pays_again_every_step_is_looked_ahead_in() -> None:
    numbers_P = new_pace(64)
    looked(numbers_P, 3_000, 2.0, 1.0)
    assert numbers_P[EVERY] == 64
    looked(numbers_P, 64 * WINDOW * 20, 1.0, 2.0)
    assert numbers_P[EVERY] == 1
    assert all(looked(numbers_P, 100, 1.0, 2.0))


def test_prompts_are_always_looked_at_and_never_counted() -> None:
    numbers_P = new_pace(64)
    looked(numbers_P, 3_000, 2.0, 1.0)
    before = numbers_P.copy()
    for _ in range(5 * WINDOW):
        assert begin(numbers_P, True)
        account(numbers_P, 0.0, 9.0)
    assert numbers_P[EVERY] == before[EVERY]


@given(some.floats(0, 1), some.floats(0, 1), some.floats(0, 1), some.floats(0, 1))
def test_only_what_the_lanes_do_not_explain_is_charged(beside: float, gpu: float, cpu: float, late: float) -> None:
    """Where the look ahead works beside the lanes, what it outlasts them by; at most its own time whatever is late."""
    assert outlasted_s(beside, max(beside, gpu, cpu), gpu, cpu) == pytest.approx(max(0.0, beside - max(gpu, cpu)))
    assert 0.0 <= outlasted_s(beside, max(gpu, cpu) + late, gpu, cpu) <= beside


def test_a_layer_is_charged_once() -> None:
    pace = Pace(64)
    plan = Plan(Demand(0, 0, Phase.DECODE, np.ones(3, np.int64), 1), ())
    pace.begin_step(Phase.DECODE)
    arrays = new_board(1, 3, 1)
    cost = CostModel(gallery.machine("rtx-4060-laptop-8gb"), SHAPE)
    notes = LayerNotes(arrays, Seconds(cost, open_board(*arrays).machine), pace)
    outcome = Outcome(plan, 1e-4, 50e-6, 1e-4 + 10e-6, 20e-6, stall_s=5e-6)
    notes.add(outcome, False, beside_s=50e-6, gained_s=3e-6)
    notes.add(outcome, False)
    assert pace.numbers_P[5:8] == pytest.approx([0, 30e-6, 3e-6])


class ByHand(Scheduler):
    """A scheduler that may do anything in its methods, so that every layer goes through them, as in an engine."""


def replayed(shape: MoEGeometry, pace: int, kind: type[Scheduler] = Scheduler) -> tuple[Scheduler, Replay]:
    """A decode on the emulated 4060, a third resident, looking ahead charged 40 microseconds a layer."""
    trace, machine = demanded(600, 3), gallery.machine("rtx-4060-laptop-8gb")
    given_bytes, clock = shape.total_experts // 3 * shape.expert_bytes, ConstantClock(5e-6, 40e-6)
    made = kind(shape, machine, given_bytes, policy=Utility(pace=pace), history=demanded(20, 5), clock=clock)
    return made, simulate(trace, steps_of(trace), made)


def test_with_experts_of_microseconds_less_is_done_and_tokens_come_sooner() -> None:
    """Looking ahead in every step outlasts the lanes; less often, it is charged less often."""
    always, every = replayed(TINY, 0)
    paced, less = replayed(TINY, 64)
    assert always.pace.every == 1 < paced.pace.every
    assert paced.stats.overlapped_s < 0.5 * always.stats.overlapped_s
    assert less.step_s < 0.95 * every.step_s
    assert (paced.tokens_LE == always.tokens_LE).all()


def test_with_real_experts_nothing_changes() -> None:
    always, every = replayed(SHAPE, 1)
    paced, same = replayed(SHAPE, 64)
    assert (same.step_s_S == every.step_s_S).all()
    assert paced.stats == always.stats


def test_the_loop_keeps_the_pace_of_a_scheduler_layer_by_layer() -> None:
    """Skipped steps too: who is where, what was asked for, arrivals, seconds."""
    quick, found = replayed(TINY, 64)
    slow, expected = replayed(TINY, 64, ByHand)
    assert quick.pace.every == slow.pace.every > 1
    assert found.step_s_S == pytest.approx(expected.step_s_S, rel=1e-12)
    assert found.stats.overlapped_s == pytest.approx(expected.stats.overlapped_s, rel=1e-11)
    assert (quick.residency.state_LE == slow.residency.state_LE).all()
    assert (quick.tokens_LE == slow.tokens_LE).all()


def test_copies_that_arrive_in_a_skipped_step_are_noted() -> None:
    made = Scheduler(TINY, gallery.machine("rtx-4060-laptop-8gb"), 12 * TINY.expert_bytes, policy="hetsched")
    plan = made.step(made.demand(0, np.bincount([0, 1, 2], minlength=TINY.num_experts), 1, Phase.DECODE))
    made.pace.looking = False
    absent = next(e for e in map(ExpertId._make, np.argwhere(made.residency.state_LE == 0).tolist()) if e.layer == 3)
    made.residency.apply(Fetch(absent, made.residency.residents()[-1], False, "made up"))
    assert made.prefetch(LinkState(0.0, (absent,))) == Copies()
    assert not made.residency.copying()
    made.observe(Outcome(plan, 1e-4, plan.predicted_s))
    assert made.tokens_LE.sum() == 3


class Overriding(Utility):
    """A policy in Python, whose copies say nothing of their gain."""

    def observe(self, demand: Demand) -> None:
        super().observe(demand)


@pytest.mark.parametrize("policy", ["on-demand-lru", "static-frequency", Overriding()])
def test_policies_that_do_not_say_what_copies_gain_are_not_paced(policy: Any) -> None:
    made = Scheduler(TINY, gallery.machine("rtx-4060-laptop-8gb"), 12 * TINY.expert_bytes, policy=policy)
    assert all(looked(made.pace.numbers_P, 100, 2.0, 1.0))
