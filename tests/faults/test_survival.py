"""Every fault that a run goes on through: really injected, counted by name, eager's tokens, slots that add up."""

from __future__ import annotations

import pytest

from hetsched.accelerators.base import LaneError
from hetsched.bench import fault_cases
from hetsched.bench.fault_ground import Ground
from hetsched.bench.faults import soak
from hetsched.faults import Fault
from hetsched.testing import broken_plugins as plugins
from hetsched.testing import faults
from hetsched.testing.faults import Dice

LRU, OWN = "on-demand-lru", "hetsched"


@pytest.mark.parametrize(
    ("kind", "rate", "policy", "fault"),
    [
        (faults.COPY_FAILS, 0.2, LRU, Fault.COPY),
        (faults.COPY_REFUSED, 0.2, LRU, Fault.COPY),
        (faults.COPY_HANGS, 0.02, LRU, Fault.OVERDUE),
        (faults.GPU_RAISES, 0.2, LRU, Fault.GPU),
        (faults.GPU_MEMORY, 0.2, LRU, Fault.GPU),
        (plugins.PLAN_RAISES, 0.3, OWN, Fault.POLICY),
        (plugins.PLAN_NONSENSE, 0.5, LRU, Fault.POLICY),
        (plugins.LEARNING_RAISES, 0.3, OWN, Fault.LEARNING),
        (plugins.PREFETCH_RAISES, 0.3, OWN, Fault.PREFETCH),
        (plugins.PREFETCH_NONSENSE, 0.3, OWN, Fault.PREFETCH),
        (plugins.SOLVER_RAISES, 1.0, OWN, Fault.SOLVER_RAISED),
    ],
)
def test_generation_goes_on(ground: Ground, kind: str, rate: float, policy: str, fault: Fault) -> None:
    dice = Dice({kind: rate}, seed=2)
    with ground.attached(dice, policy) as handle:
        assert ground.lost(0, ground.generate(0)) == 0
        handle.engine.check()
        counted, told = handle.stats()["faults"], handle.stats()["last_fault"]
    assert dice.thrown[kind] > 0
    assert counted[fault.value] > 0
    assert told[fault.value]
    more = {Fault.OVERDUE: {Fault.COPY.value}}.get(fault, set())
    if kind == faults.GPU_MEMORY:  # slots are given back at the next pass
        more = {Fault.MEMORY.value}
    expected = {fault.value, *more}
    assert set(counted) - {Fault.SOLVER_LATE.value} == expected  # a busy machine makes a good solver late
    if kind in (faults.COPY_FAILS, faults.COPY_REFUSED, faults.GPU_RAISES, plugins.PLAN_RAISES, plugins.PLAN_NONSENSE):
        assert counted[fault.value] == dice.thrown[kind]


def test_a_solvers_nonsense_is_dropped(ground: Ground) -> None:
    dice = Dice({plugins.SOLVER_NONSENSE: 1.0})
    with ground.attached(dice, OWN) as handle:
        assert ground.lost(0, ground.generate(0)) == 0
        late = handle.stats()["faults"].get(Fault.SOLVER_LATE.value, 0)
        assert handle.stats()["solver_status"]["infeasible"] + late == dice.count > 0


def test_a_cpu_kernel_gets_a_second_try(ground: Ground) -> None:
    """Once is survived; an expert that fails twice in one layer is a LaneError with its cause, and that is all."""
    dice = Dice({faults.CPU_RAISES: 1.0}, limit=1)
    with ground.attached(dice, "cpu-only") as handle:
        assert ground.lost(0, ground.generate(0)) == 0
        assert handle.stats()["faults"] == {Fault.CPU.value: 1}
    dice = Dice({faults.CPU_RAISES: 1.0})
    with ground.attached(dice, "cpu-only") as handle:
        with pytest.raises(LaneError) as caught:
            ground.generate(0)
        assert isinstance(caught.value.__cause__, faults.InjectedFault)
        dice.stop()
        assert ground.lost(0, ground.generate(0)) == 0


def test_a_gpu_that_fails_every_kernel_is_as_good_as_none(ground: Ground) -> None:
    with ground.attached(Dice({faults.GPU_RAISES: 1.0}), LRU) as handle:
        assert ground.lost(1, ground.generate(1)) == 0
        stats = handle.stats()
        assert stats["faults"][Fault.GPU.value] > stats["active"] / 2
        assert stats["gpu_s"] == pytest.approx(stats["dense_s"])


@pytest.mark.parametrize(
    "case",
    [
        fault_cases.pool,
        fault_cases.pinned,
        fault_cases.second_attach,
        fault_cases.two_threads,
        fault_cases.forked,
        fault_cases.twice_on_the_cpu,
    ],
)
def test_errors_are_one_line_and_waits_end(ground: Ground, case: object) -> None:
    row = case(ground)  # type: ignore[operator]
    assert row.survived == row.injected > 0
    assert row.tokens_lost == 0
    assert "LEFT" not in row.outcome


def test_everything_at_random_loses_no_token(ground: Ground) -> None:
    row = soak(ground, 60, seed=7)
    assert row.injected == row.survived > 0
    assert row.tokens_lost == 0
