"""Forecasters: what will be demanded. One a file; the protocol is here."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..geometry import MoEGeometry
from ..types import Demand, FloatArray


@runtime_checkable
class Forecaster(Protocol):
    """Expected demand ahead, from demand seen."""

    name: str

    def start(self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None) -> None:
        """Begin anew, from calibration frequencies if there are any."""
        ...

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        ...

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]."""
        ...
