"""oracle: the future itself, for bounds on what any forecast could bring. Shapes: L layers, E experts, S steps."""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray, IntArray
from . import NOTHING, Context, shares_LE


class Oracle:
    """The next visit of each layer as it will be, and the mean demand of the `window` steps to come.

    Where the future ends, or none is given, the last thing said stands.
    """

    name = "oracle"
    reach = None
    needs = frozenset({"future"})
    cost_s = 40e-6

    def __init__(self, window: int = 16) -> None:
        self.window = window

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Nothing is seen of the future before the first layer is."""
        self._demand_LE = shares_LE(geometry, frequency_LE, history)
        self._next_LE = self._demand_LE.copy()
        self._future: RoutingTrace | None = None

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """Look ahead from one layer of a step."""
        if context.future is None:
            return
        if context.future is not self._future:
            self._future, self._begin_S = context.future, _steps_of(context.future)
            self._see(demand.step, slice(demand.layer + 1, None))
        self._see(demand.step + 1, slice(demand.layer, demand.layer + 1))

    def _see(self, step: int, rows: slice) -> None:
        """Say what a step will demand of some layers."""
        count = len(self._begin_S) - 1
        if step >= count or self._future is None:
            return
        begin, end, last = self._begin_S[[step, step + 1, min(step + self.window, count)]].tolist()
        experts_TLK = self._future.experts_TLK[begin:last, rows]
        tokens, layers, _ = experts_TLK.shape
        experts = self._future.num_experts
        flat_TLK = experts_TLK + experts * np.arange(layers)[:, None]
        for said_LE, until in ((self._next_LE, end - begin), (self._demand_LE, tokens)):
            count_F = np.bincount(flat_TLK[:until].ravel(), minlength=layers * experts)
            said_LE[rows] = count_F.reshape(layers, experts) / until

    def demand_LE(self) -> FloatArray:
        """Demand of one token, mean over the steps to come, float [L, E]; valid until the next observe."""
        return self._demand_LE

    def next_LE(self) -> FloatArray:
        """Demand of the next visit of each layer, for one token of it."""
        return self._next_LE


def _steps_of(trace: RoutingTrace) -> IntArray:
    """Where each step begins, and the end, [S + 1]."""
    if trace.step_T is None:
        return np.arange(trace.num_tokens + 1, dtype=np.int64)
    return np.append(np.flatnonzero(np.diff(trace.step_T, prepend=-1)), trace.num_tokens).astype(np.int64)
