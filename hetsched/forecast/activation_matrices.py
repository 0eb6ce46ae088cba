"""Expert activation matrices of past requests, and which of them is nearest to the one under way.

The prediction of MoE-Infinity (arXiv 2401.14361): distance = 1 - mean over layers of the cosine between the
rows of two matrices that count a request's tokens per expert. Kept up to date layer by layer, so that a look-up costs
C * L instead of C * L * E operations.

Shapes: C stored matrices, L layers, E experts, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..traces.trace import RoutingTrace
from ..types import FloatArray

if TYPE_CHECKING:
    from .activation_kernels import Matrices


class ActivationMatrices:
    """At most `capacity` matrices; a full collection forgets the one that was nearest least often.

    For callers in Python; `arrays` are what kernels take, and nothing is known but by them.
    """

    def __init__(self, num_layers: int, num_experts: int, capacity: int = 1000) -> None:
        from . import activation_entries  # numba takes long to import
        from .activation_kernels import no_matrices

        self._entries = activation_entries.entries
        self.arrays: Matrices = no_matrices(num_layers, num_experts, max(capacity, 1))

    @property
    def count(self) -> int:
        """How many are stored."""
        return int(self.arrays.stored[0])

    def add_history(self, history: RoutingTrace | None) -> None:
        """Add one for each calibration sequence, the last `capacity`."""
        if history is None or not history.num_tokens:
            return
        sequence_T = np.asarray(history.sequence_T)
        starts = np.flatnonzero(np.diff(sequence_T, prepend=sequence_T[0] - 1))
        ends, capacity = np.append(starts[1:], len(sequence_T)), len(self.arrays.nearest_C)
        for span in list(zip(starts.tolist(), ends.tolist(), strict=True))[-capacity:]:
            self.add(history.demand_LE(slice(*span)).astype(float))

    def add(self, count_LE: FloatArray) -> None:
        """Store a finished request's tokens per expert; one without tokens is not stored."""
        self._entries.store(self.arrays, count_LE)

    def begin(self) -> None:
        """A new request, of which nothing is known."""
        self._entries.begin(self.arrays)

    def follow(self, layer: int, active: list[int], tokens: list[int]) -> None:
        """Add one layer's demand to the request under way. Matrices stored meanwhile count from the next request on."""
        self._entries.follow(self.arrays, layer, np.array(active, np.int64), np.array(tokens, np.int64))

    def nearest(self) -> FloatArray | None:
        """Shares of each layer's tokens [L, E] in the nearest stored request; None where nothing is stored."""
        place = self._entries.nearest(self.arrays)
        if place < 0:
            return None
        unit_LE = self.arrays.unit_LCE[:, place].astype(float)
        shares_LE: FloatArray = unit_LE / np.maximum(unit_LE.sum(axis=1, keepdims=True), 1e-30)
        return shares_LE
