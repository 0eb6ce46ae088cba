"""Simple strategies that decide in another's place: on its board, within its contract, and without a stall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetsched.machine.drift import slowed
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.residency import RESIDENT
from hetsched.resizing import resize
from hetsched.scheduler import Scheduler
from hetsched.shadow import CPU_ONLY, DECIDES, FETCH_ALL, SPLIT, STATIC
from hetsched.testing.policies import SHAPE, demanded
from hetsched.types import Lane

from .driver import MACHINE, Driver, as_predicted, known


def deciding(rule: int, **options: Any) -> Driver:
    """hetsched for 60 steps, and then this strategy, for as long as nobody judges."""
    run = Driver(**options)
    run.run(60, as_predicted)
    run.watch.at[DECIDES] = rule
    run.watch.known_until_A[:] = 10**6
    run.watch.measured_s_A[:] = 1.0  # nobody seems to be better
    return run


def test_cpu_only_uses_no_resident() -> None:
    plans = deciding(CPU_ONLY).run(20, as_predicted)
    assert {run.lane for plan in plans for run in plan.runs} == {Lane.CPU}
    assert not any(plan.fetches or plan.evicts for plan in plans)


@pytest.mark.parametrize(("rule", "placed"), [(STATIC, "is_placed_F"), (SPLIT, "is_split_F")])
def test_placements_are_brought_in_beside_the_lanes(rule: int, placed: str) -> None:
    """By prefetches alone, one at a time; then nothing moves any more."""
    run = deciding(rule)
    before = run.scheduler.stats.prefetches
    plans = run.run(40, as_predicted)
    target_LE = getattr(run.watch, placed).reshape(SHAPE.num_layers, -1).astype(bool)
    assert (run.scheduler.residency.state_LE[target_LE] == RESIDENT).all()
    copied = run.scheduler.stats.prefetches
    assert before < copied <= before + target_LE.sum()
    assert not any(plan.fetches or plan.evicts for plan in plans)
    run.run(20, as_predicted)
    assert run.scheduler.stats.prefetches == copied


def test_a_busy_link_is_left_alone() -> None:
    run = deciding(STATIC)
    missing = run.scheduler.residency.state_LE[run.watch.is_placed_F.reshape(SHAPE.num_layers, -1) == 1] != RESIDENT
    assert missing.any()
    run._busy = True
    run.run(1, as_predicted)  # a copy of hetsched's may be on its way
    copied = run.scheduler.stats.prefetches
    if run.scheduler.residency.num_copying == 0:
        run.run(1, as_predicted)
        copied = run.scheduler.stats.prefetches
    run.run(20, as_predicted)
    assert run.scheduler.stats.prefetches == copied


def test_fetch_all_runs_everything_on_the_gpu_and_keeps_what_was_used() -> None:
    run = deciding(FETCH_ALL)
    plans = run.run(30, as_predicted)
    assert {one.lane for plan in plans for one in plan.runs} == {Lane.GPU}
    assert any(plan.fetches for plan in plans)
    last = plans[-1].demand
    assert all(run.scheduler.residency.state_LE[last.layer, e] for e in last.active)
    counts_L = (run.scheduler.residency.state_LE != 0).sum(axis=1)
    assert counts_L.max() - counts_L.min() <= SHAPE.top_k  # nearly equal shares


def test_fetch_all_with_hardly_a_slot_leaves_the_rest_to_the_cpu() -> None:
    run = deciding(FETCH_ALL, slots=2)
    plans = run.run(10, as_predicted)
    assert {one.lane for plan in plans for one in plan.runs} == {Lane.GPU, Lane.CPU}
    assert (run.watch.used_F >= 0).all()


class ByHand(Scheduler):
    """Replayed layer by layer."""


def test_engines_and_compiled_replays_move_alike() -> None:
    """The same moves at the same steps with the same seconds, on a profile that lies and is never put right."""
    trace, found = demanded(220, 1), []
    for kind in (Scheduler, ByHand):
        scheduler = kind(
            SHAPE,
            slowed(MACHINE, link=0.1),
            13 * SHAPE.expert_bytes,
            frequency_LE=known(),
            clock=ConstantClock(2e-5, 3e-5),
            recalibrate=False,
            watch=True,
        )
        replay = simulate(trace, steps_of(trace, mode="recorded"), scheduler, true_hardware=MACHINE)
        found.append((scheduler.stats.moves, replay.step_s_S, scheduler.residency.state_LE))
    (moves, step_s_S, state_LE), (by_hand, expected_s_S, expected_LE) = found
    assert len(moves) > 1
    assert [move[:3] for move in moves] == [move[:3] for move in by_hand]
    assert [move.why for move in moves] == [move.why for move in by_hand]
    np.testing.assert_allclose([move[3:5] for move in moves], [move[3:5] for move in by_hand], rtol=1e-9)
    np.testing.assert_allclose(step_s_S, expected_s_S, rtol=1e-9)
    assert (state_LE == expected_LE).all()
    assert scheduler.stats.as_dict()["moves"][0]["left"] == "hetsched"


@pytest.mark.parametrize(("rule", "placed"), [(STATIC, "is_placed_F"), (SPLIT, "is_split_F")])
@pytest.mark.parametrize("slots", [6, 24])
def test_placements_follow_the_number_of_slots(rule: int, placed: str, slots: int) -> None:
    """Fewer: those that no longer fit are no part of it; more: the new ones are brought in."""
    run = deciding(rule)
    run.run(40, as_predicted)
    resize(run.scheduler, slots)
    run.run(60, as_predicted)
    target_LE = getattr(run.watch, placed).reshape(SHAPE.num_layers, -1).astype(bool)
    assert slots - SHAPE.num_experts < target_LE.sum() <= slots
    assert (run.scheduler.residency.state_LE[target_LE] == RESIDENT).all()
