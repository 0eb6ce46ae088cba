"""ewma: what was demanded lately will be demanded again."""

from __future__ import annotations

from ..errors import InputError
from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import shares_LE


class Ewma:
    """Exponentially weighted mean of each expert's demand, in tokens per token of a step.

    p <- p + rate * (demanded - p), once per step of the expert's layer; a step of T tokens counts as T observations, at
    most `max_tokens`, so that a long prefill informs the forecast without erasing what was known.
    """

    name = "ewma"
    reach = 0

    def __init__(self, rate: float = 0.05, max_tokens: int = 64) -> None:
        if not 0 <= rate <= 1 or max_tokens < 1:
            raise InputError(f"ewma's rate {rate} must be 0 to 1, its max_tokens {max_tokens} at least 1")
        self.rate = rate
        self.max_tokens = max_tokens

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin from calibration frequencies, or from the uniform share top_k / num_experts."""
        self._p_LE = shares_LE(geometry, frequency_LE, history)

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        rate = 1.0 - (1.0 - self.rate) ** min(demand.num_tokens, self.max_tokens)
        row_E = self._p_LE[demand.layer]
        row_E += rate * (demand.share_E - row_E)

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same: a running mean knows nothing special of the next step."""
        return self._p_LE
