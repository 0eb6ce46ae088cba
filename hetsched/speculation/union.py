"""Union: how many experts of a layer a step of n tokens makes active, learned from steps of any length.

Tokens that each drew their k of E experts independently would make E (1 - (1 - k/E)^n) of them active. Tokens of one
text agree more than that; here n of them count as n^overlap independent ones, and the overlap is learned.
"""

from __future__ import annotations

import math

from ..geometry import MoEGeometry

KEEP = 0.98  # of what was seen, each step: some 50 steps of several tokens are remembered
PRIOR_WEIGHT = 1.0  # of independence, in steps
SATURATED = 0.5  # experts short of all: beyond, a count says no more than that it is high


class ExpertUnion:
    """Expected active experts of one layer in a step, for one model."""

    def __init__(self, geometry: MoEGeometry) -> None:
        self._experts, self._top_k = geometry.num_experts, geometry.top_k
        self._sum, self._weight = PRIOR_WEIGHT, PRIOR_WEIGHT

    def observe(self, tokens: int, active: float) -> None:
        """A step of so many tokens made `active` experts of a layer active, on average; one token's says nothing."""
        if tokens < 2 or self._top_k >= self._experts:
            return
        active = min(max(active, self._top_k), self._experts - SATURATED)
        draws = math.log1p(-active / self._experts) / math.log1p(-self._top_k / self._experts)
        self._sum = KEEP * self._sum + max(0.0, math.log(draws) / math.log(tokens))
        self._weight = KEEP * self._weight + 1.0

    @property
    def overlap(self) -> float:
        """Exponent of the tokens: 1 as if independent, 0 if all chose the same experts."""
        return self._sum / self._weight

    def active(self, tokens: int) -> float:
        """Expected active experts of a layer."""
        if self._top_k >= self._experts:
            return float(self._experts)
        share_left: float = (1 - self._top_k / self._experts) ** (tokens**self.overlap)
        return float(self._experts * (1 - share_left))
