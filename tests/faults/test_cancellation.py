"""Ctrl-C anywhere: the next generation is as the first, and slots and residency agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hetsched
from hetsched.bench import fault_cases
from hetsched.bench.fault_ground import Ground
from hetsched.testing.faults import Dice
from tests.at_line import AtLine

PACKAGE = Path(hetsched.__file__).parent
OWN = {str(PACKAGE / f"{name}.py") for name in ("residency", "scheduler")} | {
    str(PACKAGE / "engine" / f"{name}.py") for name in ("engine", "executor", "copies", "slots", "recovery")
}


@pytest.mark.parametrize("policy", ["on-demand-lru", "hetsched"])
def test_at_every_call(ground: Ground, policy: str) -> None:
    """A sample of the calls here; `hetsched bench --faults` takes all."""
    row = fault_cases.cancellation(ground, tokens=2, every=19, policy=policy)
    assert row.survived == row.injected > 4
    assert row.tokens_lost == 0


def at_line(at: int, function: str = "") -> AtLine:
    """Ctrl-C at the n-th line of the engine's own files, or of one function of theirs."""
    return AtLine(at, lambda frame: frame.f_code.co_filename in OWN and function in frame.f_code.co_name)


def test_at_any_line(ground: Ground) -> None:
    """Between any two lines of engine, scheduler and residency, also where a change is half made."""
    with ground.attached(Dice({}), "on-demand-lru") as handle:
        ground.generate(0, 2)  # the first run has more lines: what is made once
        with at_line(0) as all_lines:
            ground.generate(0, 2)
        for at in range(
            5, all_lines.lines * 9 // 10, all_lines.lines // 10
        ):  # copies, and so lines, vary with the clock
            with at_line(at) as interrupted, pytest.raises(KeyboardInterrupt):
                ground.generate(0, 2)
            assert interrupted.where
            assert ground.lost(0, ground.generate(0, 2), 2) == 0, interrupted.where
            handle.engine.check()
        for at in range(2, 14):  # while what an executed layer came to is noted
            with at_line(at, "observe") as interrupted, pytest.raises(KeyboardInterrupt):
                ground.generate(0, 1)
            assert ground.lost(0, ground.generate(0, 1), 1) == 0, interrupted.where
            handle.engine.check()


def test_interrupted_while_it_recovers(ground: Ground) -> None:
    """A second Ctrl-C in the middle of putting things right: the next call does it first."""
    with ground.attached(Dice({}), "on-demand-lru") as handle:
        residency, executor = handle.scheduler.residency, handle.engine._executor
        recount, finish = residency.recount, executor.finish

        def interrupt(*_: Any) -> Any:
            raise KeyboardInterrupt

        residency.recount = executor.finish = interrupt  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            ground.generate(0)
        residency.recount, executor.finish = recount, finish  # type: ignore[method-assign]
        assert ground.lost(0, ground.generate(0)) == 0
        handle.engine.check()
