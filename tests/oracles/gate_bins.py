"""What gate_kernels computes, in NumPy. Shapes: E experts, T tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hetsched.forecast.calibrated import Bins
from hetsched.types import FloatArray, IntArray


class Said(NamedTuple):
    """What was made of a router's probabilities: their bins, and P that each token demands each expert."""

    bins_TE: IntArray
    p_TE: FloatArray


class GateBins:
    """One row of bins for the margins of gates."""

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
