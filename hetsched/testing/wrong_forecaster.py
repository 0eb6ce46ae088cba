"""A forecaster that is sure of the opposite: what has been wanted least of late will be wanted now, and nothing else.

For tests and benchmarks of what survives one: "hetsched.testing.wrong_forecaster:ConfidentlyWrong".

Shapes: L layers, E experts.
"""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray

DECAY = 0.95  # of what was counted, at each visit


class ConfidentlyWrong:
    """Certain of the top_k experts of each layer that were demanded least, and that no other will be."""

    name = "confidently wrong"
    reach = 0

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Whatever is known of before, the opposite is expected."""
        self._top_k = geometry.top_k
        known_LE = np.zeros((geometry.num_layers, geometry.num_experts)) if frequency_LE is None else frequency_LE
        self._count_LE = known_LE.astype(float)
        self._p_LE = np.zeros_like(self._count_LE)
        for layer in range(geometry.num_layers):
            self._expect(layer)

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand, to expect anything else."""
        self._count_LE[demand.layer] *= DECAY
        self._count_LE[demand.layer] += demand.tokens_E
        self._expect(demand.layer)

    def demand_LE(self) -> FloatArray:
        """1 for those expected, 0 for all others; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same."""
        return self._p_LE

    def _expect(self, layer: int) -> None:
        self._p_LE[layer] = 0.0
        self._p_LE[layer, np.argsort(self._count_LE[layer], kind="stable")[: self._top_k]] = 1.0
