"""Acceptance: how likely the draft at each position is kept, given that those before it were; learned online.

A position's successes and failures are the counts of a Beta distribution that forgets exponentially. Its prior is
centred on all positions together, so that a position seldom reached believes what the others say.
"""

from __future__ import annotations

import numpy as np

from ..types import FloatArray

PRIOR_MEAN = 0.6  # before anything was drafted: good enough to be tried, bad enough not to be drafted far
PRIOR_WEIGHT = 2.0  # what that counts for, in drafts
SHARED_WEIGHT = 4.0  # what all positions together count for at each one, in drafts
KEEP = 0.97  # of a position's counts, each time it is reached: some 30 drafts are remembered
AGED_WEIGHT = 4.0  # counts that are not renewed sink to this many drafts, their mean unchanged
AGE = 0.99  # of what a position's counts have above that, each step in which nothing was drafted


class Acceptance:
    """P(position i succeeds | all before it did), i = 1..k_max; positions are 0-based in arrays [K]."""

    def __init__(self, k_max: int, prior_mean: float = PRIOR_MEAN) -> None:
        self._prior = prior_mean
        self._won_K, self._lost_K = np.zeros(k_max), np.zeros(k_max)

    def observe(self, won: int, lost: bool) -> None:
        """The first `won` positions succeeded; the one after them failed if `lost`, else it was not reached."""
        reached = slice(0, won + lost)
        self._won_K[reached] *= KEEP
        self._lost_K[reached] *= KEEP
        self._won_K[:won] += 1.0
        if lost:
            self._lost_K[won] += 1.0

    def age(self) -> None:
        """A step has passed that says nothing: what is known grows old, so that news weighs more."""
        weight_K = self._won_K + self._lost_K
        aged_K = np.where(weight_K > AGED_WEIGHT, AGED_WEIGHT + (weight_K - AGED_WEIGHT) * AGE, weight_K)
        kept_K = aged_K / np.maximum(weight_K, 1e-12)
        self._won_K *= kept_K
        self._lost_K *= kept_K

    def rates_K(self) -> FloatArray:
        """P(position succeeds | it is reached), float [K]."""
        won, lost = self._won_K.sum(), self._lost_K.sum()
        shared = (won + PRIOR_WEIGHT * self._prior) / (won + lost + PRIOR_WEIGHT)
        rates_K: FloatArray = (self._won_K + SHARED_WEIGHT * shared) / (self._won_K + self._lost_K + SHARED_WEIGHT)
        return rates_K
