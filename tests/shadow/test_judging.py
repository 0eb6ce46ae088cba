"""When another strategy decides, when none does, and what is said of it."""

from __future__ import annotations

import logging

import pytest

from hetsched.errors import InputError
from hetsched.policies.utility import Utility
from hetsched.scheduler import Scheduler
from hetsched.shadow import AGAIN, BACK, LOOK, WORSE
from hetsched.shadow.judging import HELD, REST
from hetsched.shadow.watchdog import REASONS, SIMPLE
from hetsched.testing.policies import SHAPE
from hetsched.types import Phase

from .driver import MACHINE, Driver, as_predicted, times_static


def test_who_does_what_it_promises_is_left_alone() -> None:
    run = Driver()
    run.run(300, as_predicted)
    assert run.moves == []
    assert run.decides == "hetsched"
    assert run.watch.at[0] == 0


def test_a_strategy_three_times_as_slow_is_left_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Within HELD lost steps and a bit; the event and its one line say who, when, and by how much."""
    run = Driver()
    with caplog.at_level(logging.WARNING, "hetsched"):
        run.run(20, times_static(3.0))
    (move,) = run.moves
    assert (move.left, move.to, move.why) == ("hetsched", run.decides, REASONS[WORSE])
    assert move.to in SIMPLE
    assert move.is_switch
    assert HELD / 2 - 1 <= move.step <= HELD + 1
    assert move.measured_s / move.expected_s >= 2.9  # of the best rival, which is no slower than static-frequency
    (said,) = caplog.messages
    assert said == move.line()
    assert f"after step {move.step}" in said
    assert "\n" not in said


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.02])
def test_within_the_margin_nobody_moves(factor: float) -> None:
    run = Driver()
    run.run(400, times_static(factor))
    assert [move for move in run.moves if move.is_switch] == []


def test_a_little_worse_is_left_later_than_much_worse() -> None:
    left = []
    for factor in (1.13, 1.5, 2.0):
        run = Driver()
        run.run(120, times_static(factor))
        left.append(run.moves[0].step)
    assert left == sorted(left, reverse=True)
    assert left[0] > 20


def test_one_odd_step_moves_nobody() -> None:
    run = Driver()
    run.run(40, as_predicted)
    run.run(1, times_static(100.0))
    run.run(40, as_predicted)
    assert run.moves == []


def test_the_original_is_tried_again_and_left_sooner_each_time_later() -> None:
    """After REST steps, then after twice as many; a failed trial is over in fewer steps than the first failure took."""
    run = Driver()
    run.run(8 * REST, times_static(3.0))
    left = [move.step for move in run.moves if move.left == "hetsched"]
    again = [move.step for move in run.moves if move.to == "hetsched"]
    assert [move.why for move in run.moves if move.to == "hetsched"] == [REASONS[AGAIN]] * len(again)
    waits = [back - away for away, back in zip(left, again, strict=False)]
    assert waits == [REST, 2 * REST, 4 * REST]
    trials = [away - back for back, away in zip(again, left[1:], strict=False)]
    assert trials
    assert max(trials) < left[0] + 1


def test_an_original_that_has_become_good_stays() -> None:
    run = Driver()
    run.run(20, times_static(3.0))
    run.run(2 * REST, times_static(0.8))
    assert run.decides == "hetsched"
    run.run(200, times_static(0.8))
    assert sum(move.is_switch for move in run.moves) == 2


def test_a_shadow_that_deceives_is_found_out() -> None:
    """Simple strategies take ten times what is predicted of them: each is measured, and the original is back."""
    run = Driver()
    run.run(60, times_static(3.0, others=10.0))
    assert run.decides == "hetsched"
    assert run.moves[-1].to == "hetsched"
    spent = sum(1 for move in run.moves)
    run.run(200, times_static(3.0, others=10.0))
    assert len(run.moves) - spent <= 2 * len(SIMPLE)  # tried again, more and more rarely


def test_prefill_is_not_judged() -> None:
    run = Driver(phase=Phase.PREFILL)
    run.run(100, times_static(20.0))
    assert run.moves == []


def test_a_trial_at_the_start_measures_the_best_rival() -> None:
    run = Driver(trial=10)
    run.run(40, times_static(1.0))
    assert [(move.left, move.why) for move in run.moves[:2]] == [
        ("hetsched", REASONS[LOOK]),
        (run.moves[0].to, REASONS[BACK]),
    ]
    assert run.moves[1].step - run.moves[0].step == 10


def test_who_is_watched() -> None:
    """Engines watch what declares it; baselines stay what they are; a replay is asked."""

    def watched(**options: object) -> bool:
        return Scheduler(SHAPE, MACHINE, 13 * SHAPE.expert_bytes, **options).watchdog is not None  # type: ignore[arg-type]

    assert watched(degrade=True)
    assert not watched()
    assert watched(watch=True)
    assert not watched(degrade=True, watch=False)
    assert not watched(degrade=True, policy="static-frequency")
    assert not watched(degrade=True, policy=InPython())
    assert Scheduler(SHAPE, MACHINE, 0, watch=True).watchdog is None  # nothing to choose between


class InPython(Utility):
    """A policy of which one method is its own."""

    def prefetch(self, demand: object, view: object) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trial": -1}, "trial is -1"),
        ({"trial": 3, "watch": False}, "nobody would see to it"),
        ({"policy": InPython(), "watch": True}, "drop watch=True"),
    ],
)
def test_what_cannot_be_watched_is_one_line(options: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Scheduler(SHAPE, MACHINE, 13 * SHAPE.expert_bytes, **options)  # type: ignore[arg-type]
