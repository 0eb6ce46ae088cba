"""What the engine itself takes is charged to every strategy alike, and to no bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.machine.gallery import machine
from hetsched.machine.profile import HostCost
from hetsched.plugins import installed
from hetsched.replay import MEASURED, compare
from hetsched.replay.simulator import simulate
from hetsched.replay.steps import steps_of
from tests.replay.compare_made import LAYERS, MACHINE, geometry
from tests.replay.compare_made import random_trace as compared_trace
from tests.replay.flat_cost import random_trace
from tests.replay.test_simulator import QUIET, SMALL, scheduler

HOST_S = 3e-4
STEPS = 40


def seconds(policy: str, slots: int, host_s: float, **options: object) -> np.ndarray:
    """Of each step, on a machine whose lanes do not slow each other."""
    trace = random_trace(np.random.default_rng(slots), STEPS, 4, 12, 3)
    made = scheduler(SMALL, policy, slots, history=trace, future=trace, hardware=QUIET, **options)
    replay = simulate(trace, steps_of(trace, mode="decode"), made, host_s=host_s)
    assert made.stats.host_s == pytest.approx(STEPS * 4 * host_s)
    assert made.stats.total_s == pytest.approx(replay.step_s_S.sum())
    assert made.stats.decode_s == pytest.approx(made.stats.total_s)
    return replay.step_s_S


@pytest.mark.parametrize("policy", ["cpu-only", "layer-split", "static-frequency", "on-demand-lru", "on-demand-lfu"])
def test_where_nothing_overlaps_it_adds_exactly_itself(policy: str) -> None:
    """No copy is under way between layers: every step takes so much longer, and nothing else changes."""
    np.testing.assert_allclose(seconds(policy, 9, HOST_S), seconds(policy, 9, 0.0) + 4 * HOST_S, rtol=1e-9)


@pytest.mark.parametrize("policy", sorted(installed("hetsched.policies")))
def test_no_strategy_gains_by_it(policy: str) -> None:
    """Copies go on meanwhile, so it may cost less than itself in full, and never less than nothing."""
    without_s, with_s = seconds(policy, 9, 0.0).sum(), seconds(policy, 9, HOST_S).sum()
    assert without_s < with_s <= without_s + STEPS * 4 * HOST_S * (1 + 1e-9)


def test_rows_say_it_and_bounds_do_not_charge_it() -> None:
    host = replace(machine(MACHINE), host=HostCost(HOST_S, 1e-4, 5e-4), reasons={"host.layer_s": "by hand"})
    asked = {"strategies": ["hetsched", "cpu-only"], "decision_s": 2e-5, "bound_windows": 1}
    trace = compared_trace()
    free, charged, own = (
        compare(trace, geometry(), hardware=[host], host_s=host_s, **asked) for host_s in (0.0, HOST_S, MEASURED)
    )
    assert charged.bounds == free.bounds
    assert own.rows == charged.rows
    for before, after in zip(sorted(free.rows, key=str), sorted(charged.rows, key=str), strict=True):
        assert before.host_s_per_token == 0.0
        assert after.host_s_per_token == pytest.approx(LAYERS * HOST_S)
        assert after.efficiency < before.efficiency
    assert (free.facts["host_charge"], own.facts["host_charge"]) == (0.0, "measured")
    assert any("is not charged" in note for note in free.facts["notes"])
    assert any("charged 300 µs" in note and "(by hand)" in note for note in own.facts["notes"])


@pytest.mark.parametrize(("host_s", "words"), [(-1.0, "0..1 s"), (2.0, "0..1 s"), (MEASURED, "no host.layer_s")])
def test_charges_that_make_no_sense_are_refused(host_s: float | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compare(compared_trace(), geometry(), hardware=[MACHINE], strategies=["cpu-only"], host_s=host_s)
