"""Forecasters: the laws for every installed one, and what is particular to each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hetsched.forecast import Forecaster
from hetsched.forecast.draft_gate import DraftGate
from hetsched.forecast.eam import Eam
from hetsched.forecast.ensemble import Ensemble
from hetsched.forecast.ewma import Ewma
from hetsched.forecast.frequency import Frequency
from hetsched.forecast.gamma_poisson import GammaPoisson
from hetsched.forecast.gate_ahead import GateAhead
from hetsched.forecast.last import Last
from hetsched.forecast.oracle import Oracle
from hetsched.forecast.spac_levels import SpacLevels
from hetsched.forecast.transition import Transition
from hetsched.plugins import installed
from hetsched.testing.forecaster_ground import SHAPE, Make, started, teach
from hetsched.testing.forecasters import LAWS
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, Phase

# learned needs a predictor of the model's shape, and keeps the laws in tests/predictor.
OWN = (
    Last,
    Ewma,
    Frequency,
    GammaPoisson,
    SpacLevels,
    Eam,
    Transition,
    GateAhead,
    DraftGate,
    Ensemble,
    Oracle,
)
FORECASTERS = sorted({*(cls.name for cls in OWN), *installed("hetsched.forecasters")} - {"learned"})


def named(name: str) -> Make:
    """One of our own, or one that is installed."""
    own: dict[str, Make] = {cls.name: cls for cls in OWN}
    return own[name] if name in own else installed("hetsched.forecasters")[name].load()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", FORECASTERS)
def test_laws(law: Callable[[Make], None], name: str) -> None:
    law(named(name))


@pytest.mark.parametrize("name", FORECASTERS)
def test_they_are_forecasters(name: str) -> None:
    assert isinstance(named(name)(), Forecaster)


def test_ewma_by_hand() -> None:
    """From a share of 3/10 at rate 0.1: two demands of three, then a prefill of two tokens that counts twice."""
    forecaster = started(lambda: Ewma(rate=0.1))
    for tokens in ([0, 1, 2], [0, 3, 4]):
        forecaster.observe(Demand(0, 2, Phase.DECODE, np.bincount(tokens, minlength=SHAPE.num_experts), 1))
    expected = [0.3 * 0.81 + 0.1 * 0.9 + 0.1, 0.3 * 0.81 + 0.09, 0.3 * 0.81 + 0.09, 0.3 * 0.81 + 0.1]
    assert forecaster.demand_LE()[2, :4] == pytest.approx(expected)
    assert (forecaster.demand_LE()[1] == 0.3).all()
    tokens_E = np.bincount([0, 0, 1, 2, 5, 6], minlength=SHAPE.num_experts)
    forecaster.observe(Demand(1, 2, Phase.PREFILL, tokens_E, 2))
    after = [0.81 * expected[0] + 0.19 * 1.0, 0.81 * expected[1] + 0.19 * 0.5]
    assert forecaster.demand_LE()[2, :2] == pytest.approx(after)


def chained(tokens: int, seed: int) -> RoutingTrace:
    """Uniform choices in layer 0; every later layer takes the experts after those of the layer before it."""
    random = np.random.default_rng(seed)
    first_TK = np.argsort(random.random((tokens, SHAPE.num_experts)), axis=1)[:, : SHAPE.top_k]
    layers = [(first_TK + layer) % SHAPE.num_experts for layer in range(SHAPE.num_layers)]
    experts_TLK = np.stack(layers, axis=1).astype(np.int16)
    return RoutingTrace(experts_TLK, np.zeros(tokens, np.int32), np.ones(tokens, np.uint8), SHAPE.num_experts)


@pytest.mark.parametrize("calibrated", [True, False])
def test_transition_sees_what_the_layers_before_tell(calibrated: bool) -> None:
    """Where one layer determines the next, its experts come first there; a running mean is at chance, 3 in 10."""
    train, held_out = chained(400, 0), chained(40, 1)
    right = {"transition": 0, "ewma": 0}
    for name, make in (("transition", Transition), ("ewma", Ewma)):
        frequency_LE = train.demand_LE(slice(None)).astype(float)
        forecaster = started(make, frequency_LE, train if calibrated else None)
        if not calibrated:
            teach(forecaster, train)
        for step, experts_LK in enumerate(held_out.experts_TLK):
            for layer in range(SHAPE.num_layers - 1):
                tokens_E = np.bincount(experts_LK[layer], minlength=SHAPE.num_experts)
                forecaster.observe(Demand(step, layer, Phase.DECODE, tokens_E, 1))
                expected = np.argsort(-forecaster.next_LE()[layer + 1])[: SHAPE.top_k]
                right[name] += len({*expected.tolist()} & {*experts_LK[layer + 1].tolist()})
    asked = 40 * (SHAPE.num_layers - 1) * SHAPE.top_k
    assert right["transition"] > 0.9 * asked
    assert right["ewma"] < 0.6 * asked


def test_transition_forgets_the_last_tokens_evidence() -> None:
    """After layer 0 only layer 0 of this token counts: the same first layer gives the same forecast of layer 1."""
    forecaster = started(Transition, None, chained(300, 0))
    first_E = np.bincount([0, 1, 2], minlength=SHAPE.num_experts)
    for other in ([3, 4, 5], [6, 7, 8]):
        for layer in range(SHAPE.num_layers):
            tokens_E = np.bincount(other, minlength=SHAPE.num_experts)
            forecaster.observe(Demand(0, layer, Phase.DECODE, tokens_E, 1))
        forecaster.observe(Demand(1, 0, Phase.DECODE, first_E, 1))
        assert set(np.argsort(-forecaster.next_LE()[1])[:3].tolist()) == {1, 2, 3}


@pytest.mark.parametrize("tokens_per_step", [1, 10])
def test_transition_learns_pairs_from_single_tokens_only(tokens_per_step: int) -> None:
    """In a step of several tokens it is not known which of them asked for what: the layer before then tells nothing."""
    said = []
    for experts in ([0, 1, 2], [5, 6, 7]):
        forecaster = started(Transition)
        teach(forecaster, chained(200, 0), tokens_per_step)
        forecaster.observe(Demand(0, 0, Phase.DECODE, np.bincount(experts, minlength=SHAPE.num_experts), 1))
        said.append(forecaster.next_LE()[1].copy())
    assert np.allclose(*said) == (tokens_per_step > 1)
