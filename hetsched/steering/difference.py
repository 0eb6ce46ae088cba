"""Risk difference of every expert between two sets of prompts: SteerMoE's detection.

RD = A1 / N1 - A2 / N2, where A of a set's N tokens chose the expert (the SteerMoE paper).
Tokens of one prompt resemble each other, so the standard error is taken between prompts: each set's rate is a ratio of
two sums over prompts, whose variance is n / (n - 1) * sum_i (A_i - r N_i)^2 / N^2 (Cochran, Sampling Techniques, 1977,
equation 6.13 without the finite-population correction). Shapes: L layers, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..types import FloatArray, IntArray


class Activations:
    """How often each expert was chosen by the tokens of a set of prompts, with what a standard error needs."""

    def __init__(self, layers: int, experts: int) -> None:
        self.prompts = 0
        self.tokens = 0
        self.counts_LE = np.zeros((layers, experts), np.int64)
        self._squares_LE = np.zeros((layers, experts), np.int64)  # sum over prompts of A_i * A_i
        self._products_LE = np.zeros((layers, experts), np.int64)  # of A_i * N_i
        self._squared_tokens = 0  # of N_i * N_i

    def add(self, counts_LE: IntArray, tokens: int) -> None:
        """One prompt: `counts_LE` of its `tokens` tokens chose each expert."""
        self.prompts += 1
        self.tokens += tokens
        self.counts_LE += counts_LE
        self._squares_LE += counts_LE * counts_LE
        self._products_LE += counts_LE * tokens
        self._squared_tokens += tokens * tokens

    @property
    def rate_LE(self) -> FloatArray:
        """Share of the tokens that chose each expert."""
        rate_LE: FloatArray = self.counts_LE / self.tokens
        return rate_LE

    @property
    def variance_LE(self) -> FloatArray:
        """Of the rate, between prompts. Raises InputError for fewer than two prompts."""
        if self.prompts < 2:
            raise InputError(f"a set has {self.prompts} prompt; a standard error between prompts needs two or more")
        rate_LE = self.rate_LE
        apart_LE = self._squares_LE - 2 * rate_LE * self._products_LE + rate_LE**2 * self._squared_tokens
        variance_LE: FloatArray = np.maximum(apart_LE, 0) / self.tokens**2 * (self.prompts / (self.prompts - 1))
        return variance_LE


class Difference(NamedTuple):
    """Rates of the two sets, their difference, and its standard error, each [L, E]."""

    rate_a_LE: FloatArray
    rate_b_LE: FloatArray
    risk_LE: FloatArray
    error_LE: FloatArray

    def ranked(self) -> list[tuple[int, int]]:
        """Layer and expert of every difference that is not 0, the largest in absolute value first."""
        order = np.argsort(-np.abs(self.risk_LE), axis=None, kind="stable")
        pairs = (divmod(int(i), self.risk_LE.shape[1]) for i in order)
        return [(layer, expert) for layer, expert in pairs if self.risk_LE[layer, expert]]

    def beyond(self, errors: float) -> int:
        """Experts whose difference exceeds so many standard errors."""
        return int((np.abs(self.risk_LE) > errors * self.error_LE).sum())


def difference(a: Activations, b: Activations) -> Difference:
    """Set A against set B: above 0 where A's tokens choose the expert more often."""
    error_LE: FloatArray = np.sqrt(a.variance_LE + b.variance_LE)
    return Difference(a.rate_LE, b.rate_LE, a.rate_LE - b.rate_LE, error_LE)
