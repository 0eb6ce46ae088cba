"""From a signal to a probability: what came of it before, when it said the same.

Shapes: E experts, B bins, T tokens.
"""

from __future__ import annotations

import numpy as np

from ..types import FloatArray, IntArray

MOST = 200_000.0  # observations after which old ones begin to be forgotten


class Bins:
    """P(demanded) in each bin, float [B]: of all that fell into it, how much was demanded.

    `first_B`: what is believed before, worth `strength` observations.
    """

    def __init__(self, first_B: FloatArray, strength: float = 4.0) -> None:
        self._seen_B: FloatArray = np.full(len(first_B), strength)
        self._came_B: FloatArray = strength * first_B

    def of(self, bins: IntArray) -> FloatArray:
        """P of each, of any shape."""
        p: FloatArray = (self._came_B / self._seen_B)[bins]
        return p

    def learn(self, bins: IntArray, came: FloatArray) -> None:
        """What came of some, of one shape: 1 demanded, 0 not, or a share."""
        flat, count = bins.ravel(), len(self._seen_B)
        self._seen_B += np.bincount(flat, minlength=count)
        self._came_B += np.bincount(flat, came.ravel(), count)
        if self._seen_B.sum() > MOST:
            self._seen_B *= 0.5
            self._came_B *= 0.5


def to_sum(p_E: FloatArray, total: float) -> FloatArray:
    """`p_E` scaled to come to `total`, which is at most their number, with no entry above one."""
    scaled_E: FloatArray = p_E * (total / max(p_E.sum(), 1e-30))
    while scaled_E.max() > 1.0 + 1e-12:
        full_E = scaled_E >= 1.0
        rest_E = np.where(full_E, 0.0, p_E + 1e-30)
        scaled_E = np.where(full_E, 1.0, rest_E * ((total - full_E.sum()) / max(rest_E.sum(), 1e-300)))
    return scaled_E
