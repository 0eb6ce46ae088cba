"""frequency: what was demanded most, of all that was ever seen. Shapes: L layers, E experts."""

from __future__ import annotations

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import shares_LE

LONG = 20_000.0  # tokens over which counts fade, and the most that a calibration counts for


class Frequency:
    """Running counts on top of the calibration's, which fade so slowly that a change is followed at all."""

    name = "frequency"
    reach = 0
    cost_s = 10e-6

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin from the calibration's counts, or from a token of uniform demand."""
        self._p_LE = shares_LE(geometry, frequency_LE, history)
        self._top_k, tokens = geometry.top_k, 1.0
        if frequency_LE is not None:
            tokens = float(frequency_LE.sum()) / (geometry.num_layers * geometry.top_k)
        elif history is not None:
            tokens = float(history.num_tokens)
        self._count_LE = max(1.0, min(tokens, LONG)) * self._p_LE

    def observe(self, demand: Demand) -> None:
        """Count one layer's demand."""
        count_E = self._count_LE[demand.layer]
        count_E *= (1.0 - 1.0 / LONG) ** demand.num_kept
        count_E += demand.share_E * demand.num_kept
        self._p_LE[demand.layer] = count_E * (self._top_k / count_E.sum())

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same: counts know nothing special of the next step."""
        return self._p_LE
