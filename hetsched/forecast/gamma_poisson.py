"""gamma-poisson: counts of a workload on top of a prior that says how much workloads differ.

An expert's tokens per token are a rate with a Gamma(share * strength, strength) prior: the calibration's share of it,
and as many tokens of belief in that as the calibration's sequences agree in (method of moments). The posterior after n
tokens of which c were its own is Gamma(share * strength + c, strength + n), whose mean is the forecast; a token demands
an expert at most once, so that the mean is the probability too. Old counts fade, the prior does not.

Shapes: L layers, E experts, S sequences.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..geometry import MoEGeometry
from ..traces.split import sequence_starts
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import shares_LE

USUAL = 8.0  # tokens that the prior counts for where no sequences tell
LEAST, MOST = 2.0, 1000.0  # the same, at least and at most


class GammaPoisson:
    """Posterior mean of each expert's rate; counts fade over `memory` tokens."""

    name = "gamma-poisson"
    reach = 0
    cost_s = 12e-6

    def __init__(self, memory: float = 100.0) -> None:
        if not memory >= 1:
            raise InputError(f"gamma-poisson's memory is {memory}; it must be at least 1 token")
        self.memory = memory

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """The prior from calibration frequencies or the uniform share; its strength from the trace's sequences."""
        self._prior_LE = shares_LE(geometry, frequency_LE, history)
        self.strength = USUAL if history is None else strength_of(history)
        self._count_LE = np.zeros_like(self._prior_LE)
        self._tokens_L = np.zeros(geometry.num_layers)
        self._p_LE = self._prior_LE.copy()

    def observe(self, demand: Demand) -> None:
        """The posterior after one layer's demand."""
        layer, kept = demand.layer, (1.0 - 1.0 / self.memory) ** demand.num_kept
        count_E = self._count_LE[layer]
        count_E *= kept
        count_E += demand.share_E * demand.num_kept
        tokens = self._tokens_L[layer] = kept * self._tokens_L[layer] + demand.num_kept
        self._p_LE[layer] = (self.strength * self._prior_LE[layer] + count_E) / (self.strength + tokens)

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same: rates know nothing special of the next step."""
        return self._p_LE


def strength_of(history: RoutingTrace) -> float:
    """Tokens of belief in the mean, from how much sequences differ beyond chance.

    With rates r of S sequences of t tokens, N in all, around means m, the expectation of sum t (r - m)^2 is about
    (S - 1) m (1 - m) for chance alone, and m / strength * (N - sum t^2 / N) more where rates differ.
    """
    starts = sequence_starts(history)
    tokens_S = np.diff(starts).astype(float)
    total = float(tokens_S.sum())
    if len(tokens_S) < 2:
        return USUAL
    mean_LE = history.demand_LE(slice(None)) / total
    spread = 0.0
    for begin, end, tokens in zip(starts[:-1], starts[1:], tokens_S, strict=True):
        rate_LE = history.demand_LE(slice(int(begin), int(end))) / tokens
        spread += tokens * float(((rate_LE - mean_LE) ** 2).sum())
    beyond = spread - (len(tokens_S) - 1) * float((mean_LE * (1.0 - mean_LE)).sum())
    counted = float(mean_LE.sum()) * (total - float((tokens_S**2).sum()) / total)
    return float(np.clip(counted / max(beyond, 1e-9), LEAST, MOST))
