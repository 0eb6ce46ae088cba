"""What a step of n tokens wants of a layer: how many experts, and how many of them are there; learned online.

Tokens that each drew their k of E experts independently would make E (1 - (1 - k/E)^n) of them active. Tokens of one
text agree more than that; here n of them count as n^overlap independent ones, and the overlap is learned.

A token's own experts are the likeliest to be there, those that further tokens add are not. With r = active / k, the
growth of the union, the hit rate of one token is taken to the power r^fade, and the fade is learned. That is a
description, not a law: it is 1 where everything is there, falls towards 0 where nothing more is, and one fade
describes steps of 2 to 9 tokens of one model.
"""

from __future__ import annotations

import math

from ..geometry import MoEGeometry

KEEP = 0.98  # of what was seen, each step: some 50 steps are remembered
FIRST_OVERLAP, OVERLAP_WEIGHT = 0.8, 1.0  # before any step was seen, and what that counts for, in steps
SATURATED = 0.5  # experts short of all: beyond, a count says no more than that it is high
FIRST_HIT_RATE, HIT_WEIGHT = 0.5, 1.0  # before any step was seen, and what that counts for, in steps
FIRST_FADE, FADE_WEIGHT = 0.7, 4.0  # the same of the fade
EDGE = 0.01  # hit rates are kept so far from 0 and 1
MOST_FADE = 2.0


class ExpertUnion:
    """Expected active experts of one layer in a step, for one model."""

    def __init__(self, geometry: MoEGeometry) -> None:
        self._experts, self._top_k = geometry.num_experts, geometry.top_k
        self._overlap = _Mean(FIRST_OVERLAP, OVERLAP_WEIGHT)

    def observe(self, tokens: int, active: float) -> None:
        """A step of so many tokens made `active` experts of a layer active, on average; one token's says nothing."""
        if tokens < 2 or self._top_k >= self._experts:
            return
        active = min(max(active, self._top_k), self._experts - SATURATED)
        draws = math.log1p(-active / self._experts) / math.log1p(-self._top_k / self._experts)
        self._overlap.add(max(0.0, math.log(draws) / math.log(tokens)))

    @property
    def overlap(self) -> float:
        """Exponent of the tokens: 1 as if independent, 0 if all chose the same experts."""
        return self._overlap.value

    def active(self, tokens: int) -> float:
        """Expected active experts of a layer."""
        if self._top_k >= self._experts:
            return float(self._experts)
        share_left: float = (1 - self._top_k / self._experts) ** (tokens**self.overlap)
        return float(self._experts * (1 - share_left))


class HitRate:
    """Expected share of a layer's active experts that are there at demand. `growth`: of the union over one token's."""

    def __init__(self) -> None:
        self._one, self._fade = _Mean(FIRST_HIT_RATE, HIT_WEIGHT), _Mean(FIRST_FADE, FADE_WEIGHT)

    def observe(self, growth: float, rate: float) -> None:
        """Steps of one token say how often an expert is there, longer ones how that fades."""
        rate = min(max(rate, EDGE), 1 - EDGE)
        if growth <= 1:
            self._one.add(rate)
        elif growth > 1 + EDGE:
            fade = math.log(math.log(rate) / math.log(self._one.value)) / math.log(growth)
            self._fade.add(min(max(fade, -MOST_FADE), MOST_FADE))

    def expected(self, growth: float) -> float:
        """Hit rate of a step whose union is so many times one token's."""
        return float(self._one.value ** (max(growth, 1.0) ** self._fade.value))


class _Mean:
    """A mean that forgets; at first it is what is believed before."""

    def __init__(self, value: float, weight: float) -> None:
        self._sum, self._weight = value * weight, weight

    def add(self, value: float) -> None:
        """One more."""
        self._sum, self._weight = KEEP * self._sum + value, KEEP * self._weight + 1.0

    @property
    def value(self) -> float:
        return self._sum / self._weight
