"""From a signal to a probability: what came of it before, when it said the same.

Shapes: E experts, B bins, T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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


class Said(NamedTuple):
    """What was made of a router's probabilities: their bins, and P that each token demands each expert."""

    bins_TE: IntArray
    p_TE: FloatArray

    @property
    def p_E(self) -> FloatArray:
        """P(demanded by one token), mean over the tokens."""
        mean_E: FloatArray = self.p_TE.mean(axis=0)
        return mean_E


class GateBins:
    """Routers' probabilities, calibrated by how far each lies above or below the last of the chosen ones.

    The margin log p(e) - log p(of rank top_k) stands for it: a router's probabilities are of being weighted, not of
    being chosen. In a step of several tokens it is not known which of them demanded what: each gets its part of the
    count, in proportion to P.
    """

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._edges = np.linspace(-5.0, 5.0, 21)
        middles = np.linspace(-5.25, 5.25, 22)
        self._bins = Bins(1.0 / (1.0 + np.exp(-2.0 * middles)))

    def read(self, gate_TE: npt.NDArray[np.floating]) -> Said:
        """What a router's probabilities say of its experts."""
        log_TE = np.log(np.maximum(gate_TE, 1e-30))
        place = log_TE.shape[1] - self._top_k
        last_T1 = np.partition(log_TE, place, axis=1)[:, place, None]
        bins_TE = np.searchsorted(self._edges, log_TE - last_T1, side="right")
        return Said(bins_TE, self._bins.of(bins_TE))

    def learn(self, said: Said, tokens_E: IntArray) -> None:
        """What the layer demanded of those tokens."""
        part_TE = said.p_TE / np.maximum(said.p_TE.sum(axis=0), 1e-30)
        self._bins.learn(said.bins_TE, np.minimum(part_TE * tokens_E, 1.0))


def to_sum(p_E: FloatArray, total: float) -> FloatArray:
    """`p_E` scaled to come to `total`, which is at most their number, with no entry above one."""
    scaled_E: FloatArray = p_E * (total / max(p_E.sum(), 1e-30))
    while scaled_E.max() > 1.0 + 1e-12:
        full_E = scaled_E >= 1.0
        rest_E = np.where(full_E, 0.0, p_E + 1e-30)
        scaled_E = np.where(full_E, 1.0, rest_E * ((total - full_E.sum()) / max(rest_E.sum(), 1e-300)))
    return scaled_E
