"""Kernels of expert activation matrices: the request under way, those stored, and which of them is nearest.

Shapes: C stored matrices, L layers, E experts, N active experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import compiled_lean
from ..types import FloatArray, IntArray

SOURCE = "hetsched.forecast.activation_kernels"


class Matrices(NamedTuple):
    """`unit_LCE`: stored ones, rows of length 1. `nearest_C`: how often each was nearest. `stored`: [how many].

    Of the request under way: `request_LE` tokens per expert, `dot_LC` its rows' products with those stored, `scale_L`
    one over its rows' lengths, 0 for layers that it has not reached. `similar_C`: scratch.
    """

    unit_LCE: npt.NDArray[np.float32]
    nearest_C: IntArray
    stored: IntArray
    request_LE: FloatArray
    dot_LC: FloatArray
    scale_L: FloatArray
    similar_C: FloatArray


def no_matrices(layers: int, experts: int, capacity: int) -> Matrices:
    """Nothing stored, and a request of which nothing is known."""
    stored = np.zeros((layers, capacity, experts), np.float32), np.zeros(capacity, np.int64), np.zeros(1, np.int64)
    return Matrices(
        *stored, np.zeros((layers, experts)), np.zeros((layers, capacity)), np.zeros(layers), np.zeros(capacity)
    )


@compiled_lean
def begin(past: Matrices) -> None:
    """A new request, of which nothing is known."""
    past.request_LE[:], past.dot_LC[:], past.scale_L[:] = 0.0, 0.0, 0.0


@compiled_lean
def follow(past: Matrices, layer: int, active_N: IntArray, tokens_N: IntArray) -> None:
    """Add one layer's demand to the request under way."""
    for i in range(len(active_N)):
        past.request_LE[layer, active_N[i]] += tokens_N[i]
    for c in range(past.stored[0]):
        dot = 0.0
        for i in range(len(active_N)):
            dot += past.unit_LCE[layer, c, active_N[i]] * tokens_N[i]
        past.dot_LC[layer, c] += dot
    square = 0.0
    for tokens in past.request_LE[layer]:
        square += tokens * tokens
    past.scale_L[layer] = 1.0 / np.sqrt(square)


@compiled_lean
def compare(past: Matrices) -> None:
    """Mean over layers of the cosine to each stored matrix, into `similar_C`; layers not reached count 0."""
    layers = len(past.scale_L)
    past.similar_C[:] = 0.0
    for l in range(layers):
        for c in range(past.stored[0]):
            past.similar_C[c] += past.scale_L[l] * past.dot_LC[l, c]
    for c in range(past.stored[0]):
        past.similar_C[c] /= layers


@compiled_lean
def nearest(past: Matrices) -> int:
    """The place of the stored matrix that is nearest, the first of equals, which is counted; -1 where there is none."""
    compare(past)
    best = -1
    for c in range(past.stored[0]):
        if best < 0 or past.similar_C[c] > past.similar_C[best]:
            best = c
    if best >= 0:
        past.nearest_C[best] += 1
    return best


@compiled_lean
def store(past: Matrices, count_LE: FloatArray) -> None:
    """Store a finished request's tokens per expert, in place of what was nearest least often if there is no room.

    One without tokens is not stored.
    """
    layers, experts = count_LE.shape
    tokens = 0.0
    for l in range(layers):
        for e in range(experts):
            tokens += count_LE[l, e]
    if tokens == 0.0:
        return
    place = past.stored[0]
    if place < len(past.nearest_C):
        past.stored[0] += 1
    else:
        place = 0
        for c in range(len(past.nearest_C)):
            if past.nearest_C[c] < past.nearest_C[place]:
                place = c
    for l in range(layers):
        square = 0.0
        for e in range(experts):
            square += count_LE[l, e] * count_LE[l, e]
        norm = max(np.sqrt(square), 1e-30)
        for e in range(experts):
            past.unit_LCE[l, place, e] = count_LE[l, e] / norm
    past.nearest_C[place] = 0
