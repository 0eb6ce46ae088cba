"""Forecasters: what will be demanded. One a file; the protocol is here."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray


@runtime_checkable
class Forecaster(Protocol):
    """Expected demand ahead, from demand seen.

    `reach`: observing a layer changes forecasts of that layer and so many after it, and no others. None: of any.
    """

    name: str
    reach: int | None

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin anew; from tokens per expert in a calibration trace, or from the trace itself, if there is one."""
        ...

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        ...

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        ...

    def next_LE(self) -> FloatArray:
        """The same for the next visit of each layer, where more is known of it; valid until the next observe."""
        ...


def shares_LE(
    geometry: MoEGeometry, frequency_LE: FloatArray | None, history: RoutingTrace | None = None
) -> FloatArray:
    """Tokens per expert for one token, from calibration frequencies or a trace or uniform, float [L, E]."""
    if frequency_LE is None and history is not None:
        frequency_LE = history.demand_LE(slice(None)).astype(float)
    if frequency_LE is None:
        return np.full((geometry.num_layers, geometry.num_experts), geometry.top_k / geometry.num_experts)
    total_L = np.maximum(frequency_LE.sum(axis=1, keepdims=True), 1e-30)
    share_LE: FloatArray = geometry.top_k * frequency_LE / total_L
    return share_LE
