"""last: what a layer demanded at its last visit, it demands again, as often as it has done so far.

    P(e) = a if e was demanded, else (1 - a) k / (E - k)

so that a layer's shares come to k; a is counted, a number for each layer. Shapes: L layers, E experts.
"""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import shares_LE

FIRST, STRENGTH = 0.5, 4.0  # a before anything is known, and the demands that this is worth
MOST = 10_000.0  # demands after which old ones begin to be forgotten


class Last:
    """The last visit's demand, with the probability that it repeats."""

    name = "last"
    reach = 0
    cost_s = 12e-6

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin from calibration frequencies, or from the uniform share top_k / num_experts."""
        self._p_LE = shares_LE(geometry, frequency_LE, history)
        self._last: list[FloatArray | None] = [None] * geometry.num_layers
        self._again_L = np.full(geometry.num_layers, FIRST * STRENGTH)
        self._seen_L = np.full(geometry.num_layers, STRENGTH)
        self._top_k, self._others = geometry.top_k, geometry.num_experts - geometry.top_k

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand, and how much of the last one it repeats."""
        layer, share_E = demand.layer, demand.share_E
        last_E = self._last[layer]
        if last_E is not None:
            self._again_L[layer] += last_E @ share_E
            self._seen_L[layer] += last_E.sum()
            if self._seen_L[layer] > MOST:
                self._again_L[layer] *= 0.5
                self._seen_L[layer] *= 0.5
        self._last[layer] = share_E
        again = self._again_L[layer] / self._seen_L[layer] if self._others else 1.0
        other = self._top_k * (1.0 - again) / max(self._others, 1)
        self._p_LE[layer] = other + (again - other) * share_E

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same: it knows of the last visit, and so of the next."""
        return self._p_LE
