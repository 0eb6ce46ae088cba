"""eam: what this request has used so far tells which past request it is like, and that one what it will use.

MoE-Infinity (arXiv 2401.14361): the nearest of the stored expert activation matrices, 1 - mean over layers of the
cosine. Here it is a prior for the request's own counts, which count more the longer the request is:

    P(e) = (strength * prior(e) + count(e)) / (strength + tokens)

where the prior is the nearest matrix' share, mixed with the calibration's. It is looked for once a step.

Shapes: L layers, E experts.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import shares_LE
from .activation_matrices import ActivationMatrices

NEAREST = 0.8  # share of the nearest matrix in the prior
ALONE = 0.25  # of `strength`, what the calibration's share counts for where no request is stored
MEMORY = 64.0  # tokens over which the request's own counts fade


class Eam:
    """The nearest request as a prior. `capacity`: matrices stored; `strength`: tokens that the prior counts for."""

    name = "eam"
    reach = None
    cost_s = 60e-6

    def __init__(self, capacity: int = 1000, strength: float = 16.0) -> None:
        if not strength > 0:
            raise InputError(f"eam's strength is {strength}; it must be above 0")
        self.capacity = capacity
        self.strength = strength

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """The calibration's sequences are the first stored requests."""
        self._share_LE = shares_LE(geometry, frequency_LE, history)
        self._top_k = geometry.top_k
        self._past = ActivationMatrices(geometry.num_layers, geometry.num_experts, self.capacity)
        self._past.add_history(history)
        self._p_LE = self._share_LE.copy()
        self._begin()

    def observe(self, demand: Demand) -> None:
        """Count into the request's matrix; with the first layer, look for the nearest."""
        layer, tokens = demand.layer, demand.num_tokens
        if layer == 0 and demand.new_request:
            self._past.add(self._all_LE)
            self._begin()
        self._all_LE[layer, demand.active] += demand.tokens
        self._past.follow(layer, demand.active, demand.tokens)
        kept = (1.0 - 1.0 / MEMORY) ** tokens
        self._count_LE[layer] *= kept
        self._count_LE[layer, demand.active] += demand.tokens
        self._tokens_L[layer] = kept * self._tokens_L[layer] + tokens
        if layer == 0:
            self._look()
        rows = slice(None) if layer == 0 else slice(layer, layer + 1)
        weight_L1 = self._trust + self._tokens_L[rows, None]
        self._p_LE[rows] = (self._trust * self._prior_LE[rows] + self._count_LE[rows]) / weight_L1
        np.minimum(self._p_LE[rows], 1.0, out=self._p_LE[rows])

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._p_LE

    def next_LE(self) -> FloatArray:
        """The same: a request's matrix knows nothing special of the next step."""
        return self._p_LE

    def _look(self) -> None:
        near_LE = self._past.nearest()
        if near_LE is not None:
            self._trust = self.strength
            self._prior_LE = NEAREST * self._top_k * near_LE + (1.0 - NEAREST) * self._share_LE

    def _begin(self) -> None:
        self._prior_LE, self._trust = self._share_LE, self.strength * ALONE
        self._count_LE = np.zeros_like(self._share_LE)
        self._all_LE = np.zeros_like(self._share_LE)
        self._tokens_L = np.zeros(len(self._share_LE))
        self._past.begin()
