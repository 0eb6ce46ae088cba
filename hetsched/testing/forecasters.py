"""Laws that every forecaster keeps. Third parties run them on theirs: `for law in LAWS: law(make)`.

Shapes: T tokens, L layers, K top-k, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..forecast import forecast, tell, traits
from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, IntArray, Phase
from .forecaster_ground import SHAPE, Make, demands, drawn, routing, started, teach


def forecasts_are_shares(make: Make) -> None:
    """Both forecasts are finite, [L, E], and for one token: between 0 and 1, whatever was demanded at once."""
    for tokens_per_step in (1, 4, 50):
        forecaster = started(make)
        said = [(forecaster.demand_LE().copy(), forecaster.next_LE().copy())]
        for forecast_2 in said + teach(forecaster, routing(200), tokens_per_step):
            for forecast_LE in forecast_2:
                assert forecast_LE.shape == (SHAPE.num_layers, SHAPE.num_experts)
                assert forecast_LE.dtype == np.float64
                assert np.isfinite(forecast_LE).all()
                assert forecast_LE.min() >= 0
                assert forecast_LE.max() <= 1 + 1e-9


def every_horizon_has_a_forecast(make: Make) -> None:
    """A visit from now, or many: shares of one layer, [E]; the next visit's is what next_LE says."""
    forecaster = started(make)
    for demand, context in demands(routing(20)):
        tell(forecaster, demand, context)
        for layer in range(SHAPE.num_layers):
            assert np.allclose(forecast(forecaster, layer, 1), forecaster.next_LE()[layer])
            for horizon in (2, 5, 100):
                said_E = forecast(forecaster, layer, horizon)
                assert said_E.shape == (SHAPE.num_experts,)
                assert (said_E >= 0).all()
                assert (said_E <= 1 + 1e-9).all()


def forecasts_are_calibrated(make: Make) -> None:
    """Of what is forecast at about p, about p comes: over demands drawn with known probabilities, layer by layer."""
    forecaster = started(make)
    trace, said, came = drawn(900), [], []
    for i, (demand, context) in enumerate(demands(trace)):
        if i >= 300 * SHAPE.num_layers:  # what was learned until then counts, not learning it
            said.append(forecaster.next_LE()[demand.layer].copy())
            came.append(demand.tokens_E)
        tell(forecaster, demand, context)
    said_N, came_N = np.concatenate(said), np.concatenate(came)
    bins = np.minimum((said_N * 10).astype(np.int64), 9)
    off_B = np.bincount(bins, said_N - came_N, 10)
    assert np.abs(off_B).sum() / len(said_N) < 0.06  # the expected calibration error
    assert abs(said_N.mean() - came_N.mean()) < 0.02


def a_layers_shares_come_to_top_k(make: Make) -> None:
    """What is expected of a layer in all is what a token asks for: exactly in the mean, about so for the next visit."""
    for frequency_LE in (None, _tokens_LE(routing(300)).astype(float)):
        forecaster = started(make, frequency_LE)
        for demand_LE, next_LE in teach(forecaster, routing(300)):
            assert np.allclose(demand_LE.sum(axis=1), SHAPE.top_k, rtol=1e-6)
            assert (next_LE.sum(axis=1) > 0.4 * SHAPE.top_k).all()
            assert (next_LE.sum(axis=1) < 1.8 * SHAPE.top_k).all()


def a_repeated_demand_is_learned(make: Make) -> None:
    """What is always asked for is expected, what never is is not, from one token a step or from several."""
    for tokens_per_step in {max(tokens, _least_tokens(make)) for tokens in (1, 5)}:
        forecaster = started(make)
        same = routing(1)
        teach(forecaster, _repeated(same, 100 * tokens_per_step), tokens_per_step)
        asked_LE = same.demand_LE(slice(None)) > 0
        for forecast_LE in (forecaster.demand_LE(), forecaster.next_LE()):
            assert forecast_LE[asked_LE].min() > 0.8
            assert forecast_LE[~asked_LE].max() < 0.1


def a_change_is_learned(make: Make) -> None:
    """After as many steps of something else, the new demand is expected more than the old."""
    forecaster, per_step = started(make), _least_tokens(make)
    old, new = routing(1, seed=1), routing(1, seed=2)
    teach(forecaster, _repeated(old, 80 * per_step), per_step)
    teach(forecaster, _repeated(new, 80 * per_step), per_step)
    was_LE, is_LE = old.demand_LE(slice(None)) > 0, new.demand_LE(slice(None)) > 0
    for forecast_LE in (forecaster.demand_LE(), forecaster.next_LE()):
        assert forecast_LE[is_LE & ~was_LE].min() > forecast_LE[was_LE & ~is_LE].max()


def calibration_is_used(make: Make) -> None:
    """Told frequencies, with or without the trace, it begins from them; they last until a layer says otherwise."""
    trace = routing(400)
    share_LE = _tokens_LE(trace) / trace.num_tokens
    for history in (None, trace):
        forecaster = started(make, _tokens_LE(trace).astype(float), history)
        assert np.allclose(forecaster.demand_LE(), share_LE)
        for layer, tokens_E in enumerate(routing(1, seed=5).demand_LE(slice(None))):
            untold = slice(layer, None)
            best_L = share_LE[untold].argmax(axis=1)[:, None]
            worst_L = share_LE[untold].argmin(axis=1)[:, None]
            for forecast_LE in (forecaster.demand_LE()[untold], forecaster.next_LE()[untold]):
                high_L = np.take_along_axis(forecast_LE, best_L, axis=1)
                assert (high_L > np.take_along_axis(forecast_LE, worst_L, axis=1)).all()
            tell(forecaster, Demand(0, layer, Phase.DECODE, tokens_E, 1))  # ids alone, whatever it needs


def it_is_deterministic_and_start_begins_anew(make: Make) -> None:
    """The same demands give the same forecasts, also after another life; two instances do not disturb each other."""
    trace, used = routing(40), make()
    used.start(SHAPE, None, routing(50, seed=3))
    teach(used, routing(60, seed=4))
    used.start(SHAPE, None, None)
    other = started(make)
    first, second = teach(used, trace), teach(other, trace)
    third = teach(started(make), trace)
    for said in (second, third):
        for (demand_LE, next_LE), (demand_too_LE, next_too_LE) in zip(first, said, strict=True):
            assert (demand_LE == demand_too_LE).all()
            assert (next_LE == next_too_LE).all()


def what_it_is_given_stays_as_it_is(make: Make) -> None:
    """Calibration and demands are read, never written, and forecasting by itself changes nothing."""
    trace = routing(50)
    frequency_LE = _tokens_LE(trace).astype(float)
    kept_LE, kept_TLK = frequency_LE.copy(), trace.experts_TLK.copy()
    forecaster = started(make, frequency_LE, trace)
    tokens_E = np.bincount([1, 2, 2, 5], minlength=SHAPE.num_experts)
    tell(forecaster, Demand(0, 0, Phase.VERIFY, tokens_E, 2))
    asked = [(forecaster.demand_LE().copy(), forecaster.next_LE().copy()) for _ in range(2)]
    assert (asked[0][0] == asked[1][0]).all()
    assert (asked[0][1] == asked[1][1]).all()
    assert (frequency_LE == kept_LE).all()
    assert (trace.experts_TLK == kept_TLK).all()
    assert tokens_E.tolist() == [0, 1, 2, 0, 0, 1, 0, 0, 0, 0]


def it_reaches_no_further_than_it_says(make: Make) -> None:
    """Observing a layer changes no forecast of a layer before it, or more than `reach` after it."""
    forecaster = started(make)
    for demand, context in demands(routing(30)):
        before = forecaster.demand_LE().copy(), forecaster.next_LE().copy()
        tell(forecaster, demand, context)
        for old_LE, now_LE in zip(before, (forecaster.demand_LE(), forecaster.next_LE()), strict=True):
            changed_L, layer, reach = np.flatnonzero((old_LE != now_LE).any(axis=1)), demand.layer, forecaster.reach
            assert reach is None or set(changed_L.tolist()) <= set(range(layer, layer + reach + 1))


def one_layer_is_enough(make: Make) -> None:
    """Models of one MoE layer, and of a single expert, have forecasts too."""
    for experts, top_k in ((4, 2), (1, 1)):
        forecaster, per_step = make(), _least_tokens(make)
        forecaster.start(MoEGeometry("one", 1, experts, top_k, hidden=8, ffn=8), None, None)
        chosen_TLK = np.arange(top_k, dtype=np.int16)[None, None]
        same = RoutingTrace(chosen_TLK, np.zeros(1, np.int32), np.ones(1, np.uint8), experts)
        teach(forecaster, _repeated(same, 3 * per_step), per_step)
        assert forecaster.next_LE().shape == forecaster.demand_LE().shape == (1, experts)
        assert forecaster.next_LE()[0, 0] > 0.5


def what_was_learned_begins_another_run(make: Make) -> None:
    """Where it keeps anything: sums of its own, finite, which another run takes and a doubled or halved one too."""
    forecaster, trace = started(make), routing(120)
    teach(forecaster, trace)
    if not hasattr(forecaster, "learned"):
        return
    learned = {name: array.copy() for name, array in forecaster.learned().items()}
    assert learned
    for scale in (1.0, 0.5, 2.0):
        other = started(make, _tokens_LE(trace).astype(float))
        fresh_LE = other.next_LE().copy()
        other.recall({name: scale * array for name, array in learned.items()})
        for name, array in other.learned().items():
            assert np.isfinite(array).all()
            assert array.shape == learned[name].shape
        teach(other, routing(1, seed=7))
        assert ((other.next_LE() >= 0) & (other.next_LE() <= 1 + 1e-9)).all()
        assert (other.next_LE() != fresh_LE).any()
    for name, array in forecaster.learned().items():
        assert (array == learned[name]).all()


def what_is_foreseen_is_forecast(make: Make) -> None:
    """Where it takes drafts between steps: what all of them name is expected, of nobody named the mean stands.

    Only what was told last counts; the draft stays as it was, and a step of other tokens may follow.
    """
    forecaster, trace = started(make), routing(200)
    if not hasattr(forecaster, "foresee"):
        return
    teach(forecaster, trace, 2)
    named_LE = trace.demand_LE(slice(0, 1)) > 0
    nothing_DLE = np.zeros((2, *named_LE.shape), np.float32)
    other_DLE, draft_DLE = nothing_DLE.copy(), nothing_DLE.copy()
    draft_DLE[:, named_LE] = 1.0 / SHAPE.top_k
    other_DLE[:, ~named_LE] = 1.0 / SHAPE.num_experts
    given_DLE = draft_DLE.copy()
    forecaster.foresee(nothing_DLE)
    unsaid_LE = forecaster.next_LE().copy()
    forecaster.foresee(other_DLE)
    forecaster.foresee(draft_DLE)
    said_LE = forecaster.next_LE().copy()
    assert (draft_DLE == given_DLE).all()
    assert said_LE.min() >= 0
    assert said_LE.max() <= 1 + 1e-9
    assert (said_LE[named_LE] > said_LE[~named_LE].max()).all()
    forecaster.foresee(np.concatenate([draft_DLE, nothing_DLE]))
    assert (forecaster.next_LE()[named_LE] >= unsaid_LE[named_LE]).mean() > 0.5
    forecaster.foresee(nothing_DLE)
    assert np.allclose(forecaster.next_LE(), unsaid_LE)
    forecaster.foresee(draft_DLE)
    teach(forecaster, routing(9, seed=1), 3)
    assert np.isfinite(forecaster.next_LE()).all()


def _least_tokens(make: Make) -> int:
    return traits(started(make)).least_tokens


def _tokens_LE(trace: RoutingTrace) -> IntArray:
    return trace.demand_LE(slice(None))


def _repeated(trace: RoutingTrace, times: int) -> RoutingTrace:
    experts_TLK = np.repeat(trace.experts_TLK, times, axis=0)
    return RoutingTrace(experts_TLK, np.zeros(times, np.int32), np.ones(times, np.uint8), trace.num_experts)


LAWS: tuple[Callable[[Make], None], ...] = (
    forecasts_are_shares,
    every_horizon_has_a_forecast,
    forecasts_are_calibrated,
    a_layers_shares_come_to_top_k,
    a_repeated_demand_is_learned,
    a_change_is_learned,
    calibration_is_used,
    it_is_deterministic_and_start_begins_anew,
    what_it_is_given_stays_as_it_is,
    it_reaches_no_further_than_it_says,
    one_layer_is_enough,
    what_was_learned_begins_another_run,
    what_is_foreseen_is_forecast,
)
