"""What the shadow says is what replays of the simple strategies take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetsched.machine import gallery
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.shadow import CPU_ONLY, FETCH_ALL, SPLIT, STATIC
from hetsched.testing.policies import SHAPE, demanded
from hetsched.traces.split import tokens

from .driver import known

TRACE = demanded(14, 2)
MODES = {"on-demand-lru-per-layer": "decode"}  # of larger steps some runs on the CPU beside copies, and they contend
RIVALS = {
    "cpu-only": CPU_ONLY,
    "static-frequency": STATIC,
    "layer-split": SPLIT,
    "on-demand-lru-per-layer": FETCH_ALL,
}


def replayed(policy: str, hardware: str, slots: int, steps: int, mode: str, **options: Any) -> Scheduler:
    scheduler = Scheduler(
        SHAPE,
        gallery.machine(hardware),
        slots * SHAPE.expert_bytes,
        policy=policy,
        frequency_LE=known(),
        clock=ConstantClock(0.0),
        recalibrate=False,
        **options,
    )
    trace = tokens(TRACE, slice(0, int(steps_of(TRACE, mode=mode).end_S[steps - 1])))
    simulate(trace, steps_of(trace, mode=mode), scheduler)
    return scheduler


@pytest.mark.parametrize("hardware", ["rtx-4060-laptop-8gb", "h100-pcie"])
@pytest.mark.parametrize("slots", [16, 44])
@pytest.mark.parametrize("rival", RIVALS)
def test_a_shadow_is_what_a_replay_takes(rival: str, slots: int, hardware: str) -> None:
    """Step by step: the seconds reckoned for one are those by which a replay with it is longer than one without."""
    mode = MODES.get(rival, "recorded")
    for steps in (1, 2, 6, 14):
        with_it = replayed(rival, hardware, slots, steps, mode).stats.makespan_s
        without_s = replayed(rival, hardware, slots, steps - 1, mode).stats.makespan_s if steps > 1 else 0.0
        watchdog = replayed("hetsched", hardware, slots, steps, mode, watch=True).watchdog
        assert watchdog is not None
        assert watchdog.watch.step_s_A[RIVALS[rival]] == pytest.approx(with_it - without_s, rel=1e-9)


def test_watching_changes_nothing_while_nobody_moves() -> None:
    seen = [replayed("hetsched", "rtx-4060-laptop-8gb", 16, 14, "recorded", watch=watch) for watch in (False, True)]
    assert not seen[1].stats.moves
    assert seen[0].stats == seen[1].stats
    np.testing.assert_array_equal(seen[0].residency.state_LE, seen[1].residency.state_LE)
