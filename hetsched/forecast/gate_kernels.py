"""Kernels of gate-ahead: routers' probabilities to bins, to P that an expert is demanded, and what came of them.

As GateBins (calibrated.py) has it, for each distance its own bins, in one compiled call a layer: log p(e) - log p(of
rank top_k) falls into one of BINS bins, and each knows how often its experts were demanded.

Shapes: L layers, E experts, T tokens, D distances, B bins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import compiled_and_kept
from ..types import Float32Array, FloatArray, IntArray
from .calibrated import MOST

EDGE, STEP = 5.0, 0.5  # bins end at -EDGE, -EDGE + STEP .. EDGE, and there is one beyond each end
BINS = 22
STRENGTH = 4.0  # observations that the belief at the beginning is worth
_LEAST = 1e-30


class State(NamedTuple):
    """`seen_DB`, `came_DB`: observations in each bin, and how many of them were demanded.

    `said_LDTE`, `bins_LDTE`: P that was said of each token of a layer's next visit, and the bins it came from, for
    `tokens_LD` tokens, 0 for none. `next_LE`: the forecast.
    """

    seen_DB: FloatArray
    came_DB: FloatArray
    said_LDTE: Float32Array
    bins_LDTE: npt.NDArray[np.int8]
    tokens_LD: IntArray
    next_LE: FloatArray


def begun(layers: int, experts: int, distances: int, tokens: int) -> State:
    """Every distance begins with the same belief, nothing said; `tokens`: most of a step. `next_LE` is zero."""
    middles_B = np.linspace(-EDGE - STEP / 2, EDGE + STEP / 2, BINS)
    shape = layers, distances, tokens, experts
    return State(
        seen_DB=np.full((distances, BINS), STRENGTH),
        came_DB=np.tile(STRENGTH / (1.0 + np.exp(-2.0 * middles_B)), (distances, 1)),
        said_LDTE=np.zeros(shape, np.float32),
        bins_LDTE=np.zeros(shape, np.int8),
        tokens_LD=np.zeros((layers, distances), np.int64),
        next_LE=np.zeros((layers, experts)),
    )


@compiled_and_kept
def learn(state: State, layer: int, tokens_E: IntArray, tokens: int) -> None:
    """What the layer demanded of so many tokens, against what was said of as many; that is then forgotten.

    In a step of several tokens it is not known which of them demanded what: each gets its part in proportion to P.
    """
    for d in range(state.tokens_LD.shape[1]):
        said = state.tokens_LD[layer, d]
        state.tokens_LD[layer, d] = 0
        if said == 0 or said != tokens:
            continue
        seen_B, came_B = state.seen_DB[d], state.came_DB[d]
        for e in range(len(tokens_E)):
            total = _LEAST
            for t in range(tokens):
                total += state.said_LDTE[layer, d, t, e]
            for t in range(tokens):
                b = state.bins_LDTE[layer, d, t, e]
                seen_B[b] += 1.0
                came_B[b] += min(state.said_LDTE[layer, d, t, e] / total * tokens_E[e], 1.0)
        if seen_B.sum() > MOST:
            seen_B *= 0.5
            came_B *= 0.5


@compiled_and_kept
def read(state: State, layer: int, gates_DTE: Float32Array, top_k: int) -> None:
    """What the gates [D, T, E] say of the layers after this one: P of each token, and their mean as the forecast."""
    distances, tokens, experts = gates_DTE.shape
    for d in range(distances):
        ahead = layer + 1 + d
        state.tokens_LD[ahead, d] = tokens
        state.next_LE[ahead] = 0.0
        for t in range(tokens):
            gate_E = gates_DTE[d, t]
            last = math.log(max(float(np.partition(gate_E, experts - top_k)[experts - top_k]), _LEAST))
            for e in range(experts):
                margin = math.log(max(float(gate_E[e]), _LEAST)) - last
                b = min(max(math.floor((margin + EDGE) / STEP) + 1, 0), BINS - 1)
                p = state.came_DB[d, b] / state.seen_DB[d, b]
                state.bins_LDTE[ahead, d, t, e], state.said_LDTE[ahead, d, t, e] = b, p
                state.next_LE[ahead, e] += p / tokens
