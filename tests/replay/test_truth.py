"""A true machine beside the believed one: the scheduler goes by its profile, the seconds are the other's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.machine.drift import Drift, TrueMachine, slowed
from hetsched.machine.gallery import machine
from hetsched.replay import compare
from hetsched.replay.simulator import ConstantClock, Replay, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import SHAPE, demanded

HERE = machine("rtx-4060-laptop-8gb")
TRACE = demanded(60, 1)
STEPS = steps_of(TRACE, mode="recorded")


class ByHand(Scheduler):
    """Replayed layer by layer: simulate() takes the compiled loop for a Scheduler alone."""


def replayed(name: str, believed: Any = HERE, true: Any = None, kind: type[Scheduler] = Scheduler) -> Replay:
    clock = ConstantClock(20e-6, 35e-6)
    made = kind(SHAPE, believed, 13 * SHAPE.expert_bytes, policy=name, history=demanded(10, 5), clock=clock)
    return simulate(TRACE, STEPS, made, true_hardware=true)


@pytest.mark.parametrize("name", ["hetsched", "hybrimoe", "static-frequency"])
def test_a_truth_that_is_believed_changes_nothing(name: str) -> None:
    for kind in (Scheduler, ByHand):
        usual = replayed(name, kind=kind)
        told = replayed(name, true=HERE, kind=kind)
        assert (told.step_s_S == usual.step_s_S).all()
        assert told.stats == usual.stats
        drifting = replayed(name, true=TrueMachine(HERE, (Drift(7), Drift(30))), kind=kind)
        assert drifting.step_s_S == pytest.approx(usual.step_s_S, rel=1e-12)


def test_a_placement_that_does_not_decide_takes_the_true_seconds_whatever_is_believed() -> None:
    """static-frequency decides nothing by seconds: believing a lie costs it nothing, and a slow machine is slow."""
    lying = slowed(HERE, cpu=10.0)
    usual, lied, slow = (replayed("static-frequency", *pair) for pair in ((HERE,), (lying, HERE), (HERE, lying)))
    np.testing.assert_allclose(lied.step_s_S, usual.step_s_S, rtol=1e-12)
    assert (slow.step_s_S > 1.5 * usual.step_s_S).all()


@pytest.mark.parametrize("drifts", [(), (Drift(11, link=10.0), Drift(30, gpu=3.0, cpu=2.0))])
@pytest.mark.parametrize("name", ["hetsched", "hybrimoe", "on-demand-lru"])
def test_both_loops_agree_on_a_machine_that_is_not_believed(name: str, drifts: tuple[Drift, ...]) -> None:
    for lie in ({"cpu": 10.0}, {"link": 0.1}, {"gpu": 10.0}):
        asked = name, slowed(HERE, **lie), TrueMachine(HERE, drifts)
        quick, slow = replayed(*asked), replayed(*asked, kind=ByHand)
        assert quick.step_s_S == pytest.approx(slow.step_s_S, rel=1e-12)
        assert (quick.counts_SC == slow.counts_SC).all()


def test_a_drift_begins_at_its_step() -> None:
    """Until then nothing differs; from then on a placement that copies nothing takes the factor exactly."""
    usual = replayed("cpu-only").step_s_S
    drifted = replayed("cpu-only", true=TrueMachine(HERE, (Drift(9, 4.0, 4.0, 4.0),))).step_s_S
    charged = 20e-6 * SHAPE.num_layers
    hidden = 35e-6  # choosing copies beside the lanes may outlast them
    assert (drifted[:9] == usual[:9]).all()
    np.testing.assert_allclose(drifted[9:] - charged, 4.0 * (usual[9:] - charged), rtol=1e-9, atol=4 * hidden)
    assert (drifted[9:] > 2.0 * usual[9:]).all()


def test_only_one_of_both_with_a_gpu_is_refused() -> None:
    alone = replace(HERE, gpu=None, h2d=None, d2h=None, name="alone")
    for pair in ((HERE, alone), (alone, HERE)):
        with pytest.raises(InputError, match=f"only {HERE.name} has a GPU"):
            replayed("cpu-only", *pair)


def test_compare_says_what_is_believed_and_what_is_true() -> None:
    lies = [HERE.name, f"{HERE.name}+cpu=10"]
    options: dict[str, Any] = {"hardware": lies, "strategies": ["static-frequency"], "decision_s": 2e-5}
    options["fit_sequences"] = 0.0
    found = compare(TRACE, SHAPE, true_hardware=HERE.name, **options)
    assert found.rows[0].step_s == found.rows[1].step_s
    assert found.bounds[0].step_s == found.bounds[2].step_s  # of the machine that it is
    assert found.facts["true_hardware"] == HERE.name
    assert f"hardware is what is believed, {HERE.name} what is true" in found.facts["notes"]
    drifting = compare(TRACE, SHAPE, true_hardware=f"{HERE.name}+link=10@5", **options)
    assert len(drifting.rows) == 2
    assert not drifting.bounds
    assert any("changes midway" in note for note in drifting.facts["notes"])
