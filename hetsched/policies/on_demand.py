"""Caches that fetch every miss, whatever their rule of eviction.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .on_demand_kernels import Kernel, Slots, Visits, capacity_of, slots_of

if TYPE_CHECKING:
    from .compiled import PolicyKernels


def _serve_nothing(rule: Any, slots: Slots, visits: Visits) -> None:
    raise NotImplementedError


_no_rule: Kernel = _serve_nothing


class OnDemand(Kernelled):
    """What such caches share; a rule gives `serve`, a kernel, and `rule`, the arrays that it works on.

    The cache starts empty. A layer's experts are asked for at once: hits are noted first, then misses are fetched in
    ascending order. What the layer asks for is no victim; when nothing else is left, remaining misses run on the CPU.
    `per_layer`: each layer has slots of its own, an equal share of all, instead of competing for them.
    """

    name = "on-demand"
    traits = Traits(family="cache")
    serve = staticmethod(_no_rule)

    def __init__(self, per_layer: bool = False) -> None:
        self.per_layer = per_layer

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An empty cache: it fills by itself."""
        shape = setting.geometry
        self._slots = slots_of(shape.num_layers, shape.num_experts, setting.num_slots, self.per_layer)
        self._rule = self.rule(setting, self._slots)
        return ()

    def resized(self, num_slots: int) -> FloatArray | None:
        """Each region's share follows; where it holds more, those that were asked for longest ago must leave."""
        slots = self._slots
        slots.capacity_G[:] = capacity_of(num_slots, len(slots.capacity_G))
        self.share_out(self._rule, slots)
        asked_F: FloatArray = slots.busy_F.astype(float)
        for region, capacity in enumerate(slots.capacity_G.tolist()):
            span = slice(region * slots.span, (region + 1) * slots.span)
            held = np.flatnonzero(slots.state_F[span]) + span.start
            held = held[np.argsort(asked_F[held], kind="stable")]
            asked_F[held[: max(0, len(held) - capacity)]] = -np.inf
        return asked_F.reshape(-1, slots.experts)

    def share_out(self, rule: Any, slots: Slots) -> None:
        """The regions' shares have changed; for rules that share them out further."""

    def rule(self, setting: Setting, slots: Slots) -> Any:
        """The rule's own arrays, for an empty cache."""
        raise NotImplementedError

    def kernels(self) -> PolicyKernels:
        """Fetch every miss that finds a place; the rule learns while it serves."""
        from .on_demand_plan import kernels_of

        module = type(self).serve.__module__
        name = module.rpartition(".")[2]
        return kernels_of(name, module, self.serve, self._slots, self._rule)
