"""Kernels of gate-ahead and draft-gate: routers' probabilities to P that an expert is demanded, and what came of it.

A router's probabilities are of being weighted, not of being chosen, so the margin log p(e) - log p(of rank top_k)
stands for them. It falls into one of BINS bins, and each knows how often its experts were demanded. There is a row of
bins for whatever is to be trusted by itself: a distance, or a layer. In a step of several tokens it is not known which
of them demanded what: each gets its part of the count, in proportion to P. A token of which nothing is said, its row
all zeros, counts as the mean does.

Shapes: L layers, E experts, T tokens, D places of a layer, R rows of bins, B bins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import compiled_and_kept
from ..types import Float32Array, FloatArray, IntArray, read_only
from .calibrated import MOST

NO_BIN = -1  # of a token of which nothing was said
EDGE, STEP = 5.0, 0.5  # bins end at -EDGE, -EDGE + STEP .. EDGE, and there is one beyond each end
BINS = 22
STRENGTH = 4.0  # observations that the belief at the beginning is worth
_LEAST = 1e-30


class State(NamedTuple):
    """`seen_RB`, `came_RB`: observations in each bin, and how many of them were demanded.

    `said_LDTE`, `bins_LDTE`: P that was said of each token of a layer's next visit, and the bins it came from, for
    `tokens_LD` tokens, 0 for none; by row `rows_LD`. `next_LE`: the forecast.
    """

    seen_RB: FloatArray
    came_RB: FloatArray
    said_LDTE: Float32Array
    bins_LDTE: npt.NDArray[np.int8]
    tokens_LD: IntArray
    rows_LD: IntArray
    next_LE: FloatArray


def begun(layers: int, experts: int, places: int, rows: int, tokens: int) -> State:
    """Every row begins with the same belief, nothing said; `tokens`: most of a step. `next_LE` is zero."""
    middles_B = np.linspace(-EDGE - STEP / 2, EDGE + STEP / 2, BINS)
    shape = layers, places, tokens, experts
    return State(
        seen_RB=np.full((rows, BINS), STRENGTH),
        came_RB=np.tile(STRENGTH / (1.0 + np.exp(-2.0 * middles_B)), (rows, 1)),
        said_LDTE=np.zeros(shape, np.float32),
        bins_LDTE=np.zeros(shape, np.int8),
        tokens_LD=np.zeros((layers, places), np.int64),
        rows_LD=np.zeros((layers, places), np.int64),
        next_LE=np.zeros((layers, experts)),
    )


def make_ready() -> None:
    """Have the kernels compiled, or read from disk, now and not in the first step."""
    state = begun(2, 1, 1, 1, 1)
    read(state, 1, np.ones((1, 1, 1), np.float32), False, 1, state.next_LE.copy())
    learn(state, 0, read_only(np.ones(1, np.int64)), 1)  # as a Demand's


@compiled_and_kept
def learn(state: State, layer: int, tokens_E: IntArray, tokens: int) -> None:
    """What the layer demanded of so many tokens, against what was said of as many; that is then forgotten."""
    for d in range(state.tokens_LD.shape[1]):
        said = state.tokens_LD[layer, d]
        state.tokens_LD[layer, d] = 0
        if said == 0 or said != tokens:
            continue
        row = state.rows_LD[layer, d]
        seen_B, came_B = state.seen_RB[row], state.came_RB[row]
        for e in range(len(tokens_E)):
            total = _LEAST
            for t in range(tokens):
                total += state.said_LDTE[layer, d, t, e]
            for t in range(tokens):
                b = state.bins_LDTE[layer, d, t, e]
                if b == NO_BIN:
                    continue
                seen_B[b] += 1.0
                came_B[b] += min(state.said_LDTE[layer, d, t, e] / total * tokens_E[e], 1.0)
        if seen_B.sum() > MOST:
            seen_B *= 0.5
            came_B *= 0.5


@compiled_and_kept
def read(state: State, layer: int, gate_NTE: Float32Array, by_layer: bool, top_k: int, mean_LE: FloatArray) -> None:
    """What gates say of the next visits of N layers from `layer` on: P of each token, and their mean as the forecast.

    Bins are each layer's own, or else of how far ahead it is. `mean_LE`: P where nothing is said of a token.
    """
    _, tokens, experts = gate_NTE.shape
    for n in range(len(gate_NTE)):
        ahead, place, row = layer + n, 0 if by_layer else n, layer + n if by_layer else n
        state.tokens_LD[ahead, place], state.rows_LD[ahead, place] = tokens, row
        state.next_LE[ahead] = 0.0
        for t in range(tokens):
            gate_E = gate_NTE[n, t]
            is_said = gate_E.max() > 0.0
            last = math.log(max(float(np.partition(gate_E, experts - top_k)[experts - top_k]), _LEAST))
            for e in range(experts):
                b, p = NO_BIN, mean_LE[ahead, e]
                if is_said:
                    margin = math.log(max(float(gate_E[e]), _LEAST)) - last
                    b = min(max(math.floor((margin + EDGE) / STEP) + 1, 0), BINS - 1)
                    p = state.came_RB[row, b] / state.seen_RB[row, b]
                state.bins_LDTE[ahead, place, t, e], state.said_LDTE[ahead, place, t, e] = b, p
                state.next_LE[ahead, e] += p / tokens
