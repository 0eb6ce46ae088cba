"""Expert activation matrices of past requests, and which of them is nearest to the one under way.

The prediction of MoE-Infinity (arXiv 2401.14361): distance = 1 - mean over layers of the cosine between the
rows of two matrices that count a request's tokens per expert. Kept up to date layer by layer, so that a look-up costs
C * L instead of C * L * E operations.

Shapes: C stored matrices, L layers, E experts, N active experts, T tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..traces.trace import RoutingTrace
from ..types import FloatArray, IntArray

_FIRST = 64  # places made at first


class ActivationMatrices:
    """At most `capacity` matrices; a full collection forgets the one that was nearest least often."""

    def __init__(self, num_layers: int, num_experts: int, capacity: int = 1000) -> None:
        self.capacity = max(capacity, 1)
        self.count = 0
        self._shape = (num_layers, num_experts)
        places = min(self.capacity, _FIRST)
        self._unit_LCE: npt.NDArray[np.float32] = np.zeros((num_layers, places, num_experts), np.float32)
        self._nearest_C: IntArray = np.zeros(places, np.int64)
        self.begin()

    def add_history(self, history: RoutingTrace | None) -> None:
        """Add one for each calibration sequence, the last `capacity`."""
        if history is None or not history.num_tokens:
            return
        sequence_T = np.asarray(history.sequence_T)
        starts = np.flatnonzero(np.diff(sequence_T, prepend=sequence_T[0] - 1))
        ends = np.append(starts[1:], len(sequence_T))
        for begin, end in list(zip(starts.tolist(), ends.tolist(), strict=True))[-self.capacity :]:
            self.add(history.demand_LE(slice(begin, end)).astype(float))

    def add(self, count_LE: FloatArray) -> None:
        """Store a finished request's tokens per expert; one without tokens is not stored."""
        if not count_LE.any():
            return
        if self.count < self.capacity:
            place, self.count = self.count, self.count + 1
            if place == self._unit_LCE.shape[1]:
                self._grow(min(2 * place, self.capacity))
        else:
            place = int(np.argmin(self._nearest_C[: self.count]))
        norm_L = np.sqrt((count_LE * count_LE).sum(axis=1))
        self._unit_LCE[:, place] = count_LE / np.maximum(norm_L, 1e-30)[:, None]
        self._nearest_C[place] = 0

    def begin(self) -> None:
        """A new request, of which nothing is known."""
        layers, experts = self._shape
        self._dot_LC: FloatArray = np.zeros((layers, self._unit_LCE.shape[1]))
        self._request_LE: FloatArray = np.zeros((layers, experts))
        self._scale_L: FloatArray = np.zeros(layers)

    def follow(self, layer: int, active: list[int], tokens: list[int]) -> None:
        """Add one layer's demand to the request under way. Matrices stored meanwhile count from the next request on."""
        given_N = np.array(tokens, float)
        row_E = self._request_LE[layer]
        row_E[active] += given_N
        stored = self._dot_LC.shape[1]
        self._dot_LC[layer] += self._unit_LCE[layer][:stored, active] @ given_N
        self._scale_L[layer] = 1.0 / np.sqrt(row_E @ row_E)

    def similarity_C(self) -> FloatArray:
        """Mean over layers of the cosine to each stored matrix; layers that the request has not reached count 0."""
        known = min(self.count, self._dot_LC.shape[1])
        similar_C: FloatArray = self._scale_L @ self._dot_LC[:, :known] / self._shape[0]
        return similar_C

    def nearest(self) -> FloatArray | None:
        """Shares of each layer's tokens [L, E] in the nearest stored request; None where nothing is stored."""
        if not self.count:
            return None
        place = int(np.argmax(self.similarity_C()))
        self._nearest_C[place] += 1
        unit_LE = self._unit_LCE[:, place].astype(float)
        shares_LE: FloatArray = unit_LE / np.maximum(unit_LE.sum(axis=1, keepdims=True), 1e-30)
        return shares_LE

    def _grow(self, places: int) -> None:
        before = len(self._nearest_C)
        unit_LCE, nearest_C = self._unit_LCE, self._nearest_C
        self._unit_LCE = np.zeros((self._shape[0], places, self._shape[1]), np.float32)
        self._nearest_C = np.zeros(places, np.int64)
        self._unit_LCE[:, :before], self._nearest_C[:before] = unit_LCE, nearest_C
