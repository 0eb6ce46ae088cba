"""Skew, locality and drift of a trace, by matching three moments of every layer with those of the generator itself.

For sequences s, with f_s(e) the share of tokens that choose expert e (its sum over e is K):
  concentration  sum_e f_s(e) g_s(e) / K, with f and g from the first and the second half of s, so that sampling noise
                 averages out: the probability that two far tokens of one sequence share a chosen expert
  repeat         P(expert chosen at t+1 | chosen at t), inside sequences
  spread         the same product over different sequences
The generator turns skew and locality into the first two; a grid of its own simulations is interpolated backwards. Drift
follows in closed form: a sequence's ranking agrees with the common one by a factor c, and the product over different
sequences exceeds that of a uniform layer by c**2 times what it does inside one, with c = 1 - d + (1 - (1-d)**E) / E.

Shapes: T tokens, L layers, K choices, E experts, S sequences, A skews and P localities of the grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..types import FloatArray, IntArray
from .checks import chunks
from .split import sequence_starts
from .synth import SynthParams, generate
from .trace import RoutingTrace

_SKEWS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2, 3.0])
_LOCALITIES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.95])
_GRID_TOKENS = 3000
_LEAST_SKEW = 0.05  # rankings that differ in nothing do not drift
_GAP_TOKENS = 8  # left out between the halves of a sequence, whose neighbours are alike
_MIN_TOKENS = 32  # shorter sequences say too little


class Moments(NamedTuple):
    """The three moments of every layer; `spread_L` is NaN where there is one sequence."""

    concentration_L: FloatArray
    repeat_L: FloatArray
    spread_L: FloatArray


def fit_synth(trace: RoutingTrace) -> SynthParams:
    """Parameters of a synthetic trace that is like this one in length, shape and moments.

    With one sequence, or in a layer without skew, drift cannot be seen and is 0. What the generator cannot show is
    clipped to what it can.
    """
    starts_S = sequence_starts(trace)
    seen = moments(trace, starts_S)
    grid = _grid(trace.num_experts, trace.top_k)
    fitted = [_invert(grid, c, r) for c, r in zip(seen.concentration_L, seen.repeat_L, strict=True)]
    drifts = _drifts(seen, trace.num_experts, trace.top_k)
    return SynthParams(
        trace.num_layers,
        trace.num_experts,
        trace.top_k,
        trace.num_tokens,
        len(starts_S) - 1,
        tuple(round(skew, 4) for skew, _ in fitted),
        tuple(round(locality, 4) for _, locality in fitted),
        tuple(round(d, 4) if skew >= _LEAST_SKEW else 0.0 for d, (skew, _) in zip(drifts, fitted, strict=True)),
    )


def moments(trace: RoutingTrace, starts_S: IntArray) -> Moments:
    """The moments of a trace. Sequences under 32 tokens are left out if there are longer ones."""
    spans = list(zip(starts_S[:-1].tolist(), starts_S[1:].tolist(), strict=True))
    spans = [span for span in spans if span[1] - span[0] >= _MIN_TOKENS] or spans
    inside = np.zeros(trace.num_layers)
    repeats, pairs, tokens = np.zeros(trace.num_layers), 0, 0
    sum_LE, squares_L = np.zeros((trace.num_layers, trace.num_experts)), np.zeros(trace.num_layers)
    for start, stop in spans:
        half, gap = (stop - start) // 2, min(_GAP_TOKENS, (stop - start) // 8)
        first_LE = _shares(trace, start, start + max(half, 1))
        last_LE = _shares(trace, min(start + half + gap, stop - 1), stop)
        inside += (stop - start) * (first_LE * last_LE).sum(axis=1)
        tokens += stop - start
        whole_LE = _shares(trace, start, stop)
        sum_LE += whole_LE
        squares_L += (whole_LE**2).sum(axis=1)
        repeats += repeated(trace, start, stop)
        pairs += stop - start - 1
    different = len(spans) * (len(spans) - 1)
    spread_L = ((sum_LE**2).sum(axis=1) - squares_L) / different if different else np.full(trace.num_layers, np.nan)
    k = trace.top_k
    return Moments(inside / tokens / k, repeats / max(pairs, 1) / k, spread_L / k)


def repeated(trace: RoutingTrace, start: int, stop: int) -> FloatArray:
    """How many choices of tokens start..stop-2 the next token repeats, by layer: float64 [L]."""
    found_L = np.zeros(trace.num_layers)
    for part in chunks(stop - start - 1, trace.num_layers * trace.top_k**2):
        chosen_CLK = np.asarray(trace.experts_TLK[start + part.start : start + part.stop + 1])
        found_L += shared(chosen_CLK[:-1], chosen_CLK[1:]).sum(axis=0)
    return found_L


def shared(first_CLK: npt.NDArray[Any], second_CLK: npt.NDArray[Any]) -> IntArray:
    """How many choices of each row of the first are in the same row of the second: int64 [C, L]."""
    equal = first_CLK[:, :, :, None] == second_CLK[:, :, None, :]
    return np.asarray(equal.any(axis=3).sum(axis=2))


def _shares(trace: RoutingTrace, start: int, stop: int) -> FloatArray:
    counts_LE = np.zeros((trace.num_layers, trace.num_experts))
    for part in chunks(stop - start, trace.num_layers * trace.top_k):
        counts_LE += trace.demand_LE(slice(start + part.start, start + part.stop))
    return counts_LE / (stop - start)


class _Grid(NamedTuple):
    """Concentration and repeat probability of the generator at every skew and locality, [A, P]."""

    concentration_AP: FloatArray
    repeat_AP: FloatArray


def _grid(num_experts: int, top_k: int) -> _Grid:
    """Simulated with one layer for each cell, one sequence, a fixed seed."""
    skew_AP, locality_AP = np.meshgrid(_SKEWS, _LOCALITIES, indexing="ij")
    cells = skew_AP.size
    params = SynthParams(
        cells,
        num_experts,
        top_k,
        _GRID_TOKENS,
        1,
        tuple(skew_AP.ravel().tolist()),
        tuple(locality_AP.ravel().tolist()),
        (0.0,) * cells,
    )
    experts_TLK = np.concatenate([experts_CLK for _, experts_CLK in generate(params, seed=0)])
    tokens = len(experts_TLK)
    trace = RoutingTrace(experts_TLK, np.zeros(tokens, np.int32), np.ones(tokens, np.uint8), num_experts)
    seen = moments(trace, np.array([0, tokens]))
    return _Grid(seen.concentration_L.reshape(skew_AP.shape), seen.repeat_L.reshape(skew_AP.shape))


def _invert(grid: _Grid, concentration: float, repeat: float) -> tuple[float, float]:
    """Skew and locality that give these moments: each from its own moment at the other's value, in turn."""
    skew, locality = 0.0, 0.0
    for _ in range(20):
        at_locality_A = np.array([np.interp(locality, _LOCALITIES, row_P) for row_P in grid.concentration_AP])
        skew = float(np.interp(concentration, np.maximum.accumulate(at_locality_A), _SKEWS))
        at_skew_P = np.array([np.interp(skew, _SKEWS, column_A) for column_A in grid.repeat_AP.T])
        locality = float(np.interp(repeat, np.maximum.accumulate(at_skew_P), _LOCALITIES))
    return skew, locality


def _drifts(seen: Moments, num_experts: int, top_k: int) -> list[float]:
    drift_G = np.linspace(0, 1, 1001)
    agreement_G = 1 - drift_G + (1 - (1 - drift_G) ** num_experts) / num_experts
    floor = top_k / num_experts  # both products in a layer that uses all experts alike
    drifts = []
    for inside, spread in zip(seen.concentration_L - floor, seen.spread_L - floor, strict=True):
        agreement = np.sqrt(max(spread, 0.0) / inside) if inside > 0 and np.isfinite(spread) else 1.0
        drifts.append(float(np.interp(-agreement, -agreement_G, drift_G)))
    return drifts
