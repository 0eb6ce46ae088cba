"""hot-static: the hottest experts of each layer are pinned, an equal share of the slots for each; misses on the CPU.

What forks of llama.cpp do with a routing profile of an earlier run. Without a profile the calibration trace says what
is hot; without that, nobody does.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..policy import Setting
from ..traces.routing_profile import counts_LE, read_routing_profile
from ..types import ExpertId
from .static import CpuOnly, evenly


class HotStatic(CpuOnly):
    """`profile`: a CSV file "layer,expert,count", read here: a replay's workers need it under the same path."""

    name = "hot-static"

    def __init__(self, profile: str = "") -> None:
        self._rows = read_routing_profile(profile) if profile else None

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Every layer's hottest expert, then every layer's second. Raises InputError for a profile of another model."""
        if self._rows is None:
            return evenly(setting)
        shape = setting.geometry
        return evenly(replace(setting, frequency_LE=counts_LE(self._rows, shape.num_layers, shape.num_experts)))
