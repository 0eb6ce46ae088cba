"""The forecaster: conformance, the kernels against the formulas in torch, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hetsched.board import ACTIVE, LAYER, TOKENS, new_board, open_board
from hetsched.errors import InputError
from hetsched.forecast import Context
from hetsched.geometry import MoEGeometry
from hetsched.predictor import kernels
from hetsched.predictor.compact import Compact, shapes, untrained
from hetsched.predictor.compact_training import CompactBatches, CompactNet
from hetsched.predictor.evaluation import forecasts_of, shape_of
from hetsched.predictor.learned import Learned
from hetsched.predictor.means import WINDOW
from hetsched.testing.forecaster_ground import SHAPE, Make, routing, started, teach
from hetsched.testing.forecasters import LAWS
from hetsched.traces.split import tokens
from hetsched.types import Demand, Phase
from tests.predictor.made import AnyShape, hinted, mixed, permuted

FIXED = {"bias_rate": 0.0, "out_rate": 0.0, "pair_rate": 0.0}  # nothing is learned online


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(law: Callable[[Make], None]) -> None:
    law(AnyShape)


def random_net(layers: int, experts: int, width: int, hidden: int, seed: int = 0) -> Compact:
    """Every number of the network at work."""
    random = np.random.default_rng(seed)
    made = {
        name: (0.3 * random.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes(layers, experts, width, hidden).items()
    }
    return Compact(**made)


def run(forecaster: Learned, trace: Any, distance: int = 1) -> Any:
    """Forecasts of every layer as they stand `distance` layers before it, from uniform means, float [T, L, E]."""
    forecaster.start(shape_of(trace))
    said = np.zeros((trace.num_tokens, trace.num_layers, trace.num_experts))
    for t in range(trace.num_tokens):
        for l in range(trace.num_layers):
            for ahead in range(l, trace.num_layers):
                if ahead - l + 1 == distance or (l == 0 and ahead < distance):
                    said[t, ahead] = forecaster.next_LE()[ahead]
            tokens_E = np.bincount(trace.experts_TLK[t, l], minlength=trace.num_experts)
            seen = () if trace.hidden_TLH is None else (Context(trace.hidden_TLH[t, l, None].astype(np.float32)),)
            forecaster.observe(Demand(t, l, Phase.DECODE, tokens_E, 1), *seen)
    return said


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_kernels_and_torch_forecast_alike(distance: int, hidden: bool) -> None:
    """Token by token with running means, or a batch of windows with means by powers: the same probabilities."""
    trace = hinted(2 * WINDOW, 1) if hidden else mixed(2 * WINDOW, 1)
    net = random_net(trace.num_layers, trace.num_experts, 16, trace.width)
    online_TLE = run(Learned(net, **FIXED), trace, distance)
    batch, torch_net = CompactBatches(trace, hidden=hidden).batch(range(2)), CompactNet(net)
    with torch.inference_mode():
        token_LNH = torch_net._ahead(torch_net._tokens(*batch), distance)
        p_TLE = torch_net._logits(batch, token_LNH).sigmoid().numpy()
    np.testing.assert_allclose(p_TLE, online_TLE, atol=3e-3)
    assert np.ptp(online_TLE) > 0.5


def test_the_compiled_form_learns_what_observe_does() -> None:
    """Demands on a board, of one token and of several, leave the same forecasts."""
    plain, compiled = (started(lambda: Learned(untrained(SHAPE))) for _ in range(2))
    name, _, learn, known = compiled.kernel()  # type: ignore[attr-defined]
    arrays = new_board(SHAPE.num_layers, SHAPE.num_experts, 4)
    board = open_board(*arrays)
    for tokens_per_step in (1, 3):
        trace = routing(30)
        teach(plain, trace, tokens_per_step)
        for begin in range(0, 30, tokens_per_step):
            for layer, tokens_E in enumerate(trace.demand_LE(slice(begin, begin + tokens_per_step))):
                active = tokens_E.nonzero()[0]
                board.at[[LAYER, TOKENS, ACTIVE]] = layer, tokens_per_step, len(active)
                board.active_N[: len(active)], board.tokens_N[: len(active)] = active, tokens_E[active]
                learn(board, known)
    assert name == "learned"
    np.testing.assert_array_equal(plain.next_LE(), compiled.next_LE())
    np.testing.assert_array_equal(plain.demand_LE(), compiled.demand_LE())


def test_online_learning_finds_what_training_did_not_know() -> None:
    """An untrained network comes to see a permutation; with rates of 0 it never does."""
    trace = permuted(800, 1)
    recalls = []
    for rates in (dict[str, float](), FIXED):
        forecaster = Learned(untrained(shape_of(trace)), **rates)
        p_TLE = np.concatenate(list(forecasts_of(forecaster, tokens(trace, slice(0, 1)), trace)))
        hits_TL = p_TLE.argmax(axis=2) == trace.experts_TLK[:, :, 0]
        recalls.append(hits_TL[-200:, 1:].mean())
    assert recalls[0] > 0.9
    assert recalls[1] < 0.5


def test_the_file_stays_as_it_is_while_the_forecaster_learns() -> None:
    net = untrained(SHAPE)
    before = [array.copy() for array in net]
    teach(started(lambda: Learned(net)), routing(30))
    for array, was in zip(net, before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_another_shape_is_refused() -> None:
    other = MoEGeometry("other", 3, SHAPE.num_experts, SHAPE.top_k, hidden=8, ffn=8)
    with pytest.raises(InputError, match="6 layers with 10 experts, other has 3"):
        Learned(untrained(SHAPE)).start(other)


def test_without_a_predictor_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HETSCHED_PREDICTOR", raising=False)
    with pytest.raises(InputError, match="HETSCHED_PREDICTOR to a file of 'hetsched predictor train'"):
        Learned()


@pytest.mark.parametrize(("seen", "told"), [(None, "there are none"), (Context(np.zeros((1, 5))), "they have 5")])
def test_hidden_states_that_are_needed_must_be_there(seen: Any, told: str) -> None:
    forecaster = Learned(untrained(SHAPE, hidden=7))
    assert forecaster.needs == {"hidden"}
    forecaster.start(SHAPE)
    with pytest.raises(InputError, match=told):
        forecaster.observe(Demand(0, 0, Phase.DECODE, np.ones(10, np.int64), 1), seen)


def test_kernels_know_their_sources() -> None:
    """A change of any of them compiles anew."""
    assert {"hetsched.predictor.kernels", "hetsched.predictor.compact"} <= set(kernels.SOURCES)
