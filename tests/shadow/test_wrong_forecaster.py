"""A forecaster that is sure and wrong: lawful in form, wrong in what it says, and survived under watch."""

from __future__ import annotations

import numpy as np

from hetsched.bench.guard_cases import WRONG
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing import forecasters as laws
from hetsched.testing.policies import SHAPE
from hetsched.testing.wrong_forecaster import ConfidentlyWrong
from hetsched.traces.split import tokens

from .driver import MACHINE, TRACE, known


def test_its_forecasts_are_well_formed() -> None:
    laws.forecasts_are_shares(ConfidentlyWrong)
    laws.every_horizon_has_a_forecast(ConfidentlyWrong)


def test_it_expects_what_does_not_come() -> None:
    one = ConfidentlyWrong()
    one.start(SHAPE, known())
    assert set(np.unique(one.next_LE())) == {0.0, 1.0}
    assert (one.next_LE().sum(axis=1) == SHAPE.top_k).all()
    liked_LE = np.argsort(-known(), axis=1)[:, : SHAPE.top_k]
    assert not np.take_along_axis(one.next_LE(), liked_LE, axis=1).any()


def seconds(policy: str, **options: object) -> tuple[float, Scheduler]:
    trace = tokens(TRACE, slice(0, 500))
    made = Scheduler(
        SHAPE,
        MACHINE,
        13 * SHAPE.expert_bytes,
        policy=policy,
        frequency_LE=known(),
        clock=ConstantClock(2e-5),
        **options,  # type: ignore[arg-type]
    )
    return float(simulate(trace, steps_of(trace), made).step_s_S.sum()), made


def test_under_watch_it_costs_little() -> None:
    best_s = seconds("static-frequency")[0]
    alone_s, _ = seconds("hetsched", forecaster=WRONG)
    watched_s, made = seconds("hetsched", forecaster=WRONG, watch=True)
    assert alone_s > 1.05 * best_s
    assert watched_s < 1.05 * best_s
    assert any(move.is_switch for move in made.stats.moves)
