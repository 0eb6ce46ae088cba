"""The compiled loop against the layer-by-layer one, which asks the same scheduler that a model does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hetsched.machine.gallery import machine
from hetsched.plugins import installed
from hetsched.policies.static import StaticFrequency
from hetsched.replay.simulator import ConstantClock, Replay, compiled_parts, simulate
from hetsched.replay.steps import Steps, steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import SHAPE, demanded
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand

COMPILED = sorted(name for name, entry in installed("hetsched.policies").items() if hasattr(entry.load(), "kernels"))
CHARGES = ConstantClock(20e-6, 35e-6)


class ByHand(Scheduler):
    """A scheduler that may do anything in its methods, so that every layer goes through them."""


def replayed(kind: type[Scheduler], name: str, trace: RoutingTrace, steps: Steps, hardware: str) -> tuple[Any, Replay]:
    clock = ConstantClock(CHARGES.charge_s, CHARGES.beside_s)
    made = kind(
        SHAPE,
        machine(hardware),
        13 * SHAPE.expert_bytes,
        policy=name,
        history=demanded(10, 5),
        future=trace,
        clock=clock,
    )
    return made, simulate(trace, steps, made)


@pytest.mark.parametrize("hardware", ["rtx-4060-laptop-8gb", "h100-pcie"])
@pytest.mark.parametrize("name", COMPILED)
def test_the_loop_does_what_the_scheduler_does(name: str, hardware: str) -> None:
    """Prefill, decode and verify steps; counts are equal, and seconds but for the order in which they are added."""
    trace = demanded(40, 1)
    steps = steps_of(trace, mode="recorded")
    slow, expected = replayed(ByHand, name, trace, steps, hardware)
    quick, found = replayed(Scheduler, name, trace, steps, hardware)
    assert found.step_s_S == pytest.approx(expected.step_s_S, rel=1e-12)
    theirs, ours = expected.stats.as_dict(), found.stats.as_dict()
    watched, watching = theirs.pop("predictions"), ours.pop("predictions")
    assert watching.keys() == watched.keys()
    for name, figures in watched.items():
        assert watching[name] == pytest.approx(figures, rel=1e-9, abs=1e-12), name
    assert ours.pop("utilisation") == pytest.approx(theirs.pop("utilisation"), rel=1e-11)
    for figure, value in theirs.items():
        assert ours[figure] == (pytest.approx(value, rel=1e-11) if isinstance(value, float) else value), figure
    assert (quick.residency.state_LE == slow.residency.state_LE).all()
    assert (quick.tokens_LE == slow.tokens_LE).all()
    assert quick.tokens_LE.sum() == trace.num_tokens * SHAPE.num_layers * SHAPE.top_k


def test_hetsched_and_the_static_ones_are_compiled() -> None:
    assert {"hetsched", "static-frequency", "layer-split", "cpu-only", "on-demand-lru"} <= set(COMPILED)
    assert {"fiddler", "freetoken", "hybrimoe", "dali", "moe-infinity", "moe-spac", "moe-spac-fixed"} <= set(COMPILED)


def test_router_weights_reach_the_loop() -> None:
    """hybrimoe scores by them: the same scores as layer by layer, and others than without."""
    plain = demanded(40, 1)
    weights_TLK = np.random.default_rng(3).random(plain.experts_TLK.shape).astype(np.float16)
    weighted, steps = replace(plain, weights_TLK=weights_TLK), steps_of(plain, mode="recorded")
    slow, expected = replayed(ByHand, "hybrimoe", weighted, steps, "h100-pcie")
    quick, found = replayed(Scheduler, "hybrimoe", weighted, steps, "h100-pcie")
    unweighted, _ = replayed(Scheduler, "hybrimoe", plain, steps, "h100-pcie")
    assert found.step_s_S == pytest.approx(expected.step_s_S, rel=1e-12)
    np.testing.assert_allclose(quick.policy._score_LE, slow.policy._score_LE, rtol=1e-12)
    assert np.abs(quick.policy._score_LE - unweighted.policy._score_LE).max() > 0.01


def test_what_is_not_compiled_is_replayed_layer_by_layer() -> None:
    class InPython(StaticFrequency):
        """One of its methods is its own."""

        def observe(self, demand: Demand) -> None:
            super().observe(demand)

    def parts(policy: Any, solver: str = "exact", **options: Any) -> Any:
        made = Scheduler(SHAPE, machine("h100-pcie"), SHAPE.expert_bytes, policy=policy, solver=solver, **options)
        return compiled_parts(made)

    assert parts("hetsched", clock=CHARGES)
    assert parts("hetsched") is None  # the clock is the host's
    assert parts("hetsched", "all-cpu", clock=CHARGES) is None
    assert parts("static-frequency", clock=CHARGES)
    assert parts(InPython(), clock=CHARGES) is None


def test_a_solver_in_python_decides_as_its_compiled_form() -> None:
    trace = demanded(30, 2)
    steps = steps_of(trace, mode="recorded")

    class Uncompiled:
        name = "exact, asked"

        def __init__(self) -> None:
            self.solve = installed("hetsched.solvers")["exact"].load()().solve

    seconds = []
    for solver in ("exact", Uncompiled()):
        made = Scheduler(
            SHAPE, machine("h100-pcie"), 13 * SHAPE.expert_bytes, solver=solver, clock=ConstantClock(20e-6)
        )
        seconds.append(simulate(trace, steps, made).step_s_S)
    np.testing.assert_allclose(seconds[0], seconds[1], rtol=1e-12)
