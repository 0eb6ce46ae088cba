"""spac-levels: one small number an expert, moved by what steps of several tokens demand of it.

MoE-SpAc (arXiv 2603.09983): a level s in 0..5; when the layer has run with `count` tokens for the expert, one up where
count - s >= 5, one down where s - count >= 1. What a level means is counted here: of all experts that had it, the share
that a token demanded. A step of fewer than five tokens raises no level, so that decoding token by token it comes to say
the same of every expert.

Shapes: L layers, E experts.
"""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import shares_LE
from .calibrated import Bins, to_sum

TOP_LEVEL = 5


class SpacLevels:
    """Levels as published, with the probability that each stands for. `up`, `down`: differences that move one."""

    name = "spac-levels"
    reach = 0
    least_tokens = 5
    cost_s = 30e-6

    def __init__(self, up: int = 5, down: int = 1) -> None:
        self.up = up
        self.down = down

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """All levels 0; calibration frequencies hold until a layer is first seen."""
        self._p_LE = shares_LE(geometry, frequency_LE, history)
        self._level_LE = np.zeros(self._p_LE.shape, np.int64)
        self._top_k = geometry.top_k
        share = geometry.top_k / geometry.num_experts
        self._meaning = Bins(share + (1.0 - share) * np.arange(TOP_LEVEL + 1) / (TOP_LEVEL + 1))

    def observe(self, demand: Demand) -> None:
        """What the levels came to, then the levels."""
        level_E, tokens_E = self._level_LE[demand.layer], demand.tokens_E
        self._meaning.learn(level_E, tokens_E / max(demand.num_tokens, 1))
        more_E = tokens_E - level_E
        step_E = (more_E >= self.up).astype(np.int64) - (more_E <= -self.down)
        np.clip(level_E + step_E, 0, TOP_LEVEL, out=level_E)
        self._p_LE[demand.layer] = to_sum(self._meaning.of(level_E), self._top_k)

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same: levels know nothing special of the next step."""
        return self._p_LE
