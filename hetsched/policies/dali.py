"""dali: keep what was worked most in the last window; assign experts greedily; prefetch the next layer's.

DALI (arXiv 2602.03495), its three parts:

* Greedy assignment: experts by descending load, each to the lane that finishes it first (a 0-1 program's heuristic).
* Workload-aware replacement: tokens per expert are counted over a window of steps; at its end a layer's busiest
  absent experts replace its least busy cached ones.
* Residual-based prefetch: the next layer's router is applied to this layer's hidden state plus a learned mean
  residual, and the experts with the largest predicted load are copied.

Approximated: a trace has no hidden states, so learned transitions between layers stand in for the corrected router.
Each layer has an equal share of the slots. Window length, experts replaced at its end and experts prefetched a layer
are parameters; their defaults are ours, chosen on the first halves of two traces. A fetched or prefetched expert takes
the place of its layer's least busy one.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from ..forecast import shares_LE
from ..policy import Decision, Setting, View
from ..residency import ABSENT, RESIDENT
from ..types import Demand, ExpertId, Fetch, FloatArray
from .idle_link import copies, expected, room
from .rule_dispatch import RuleDispatch
from .static import evenly


class Dali:
    """Window counts of tokens for residency, greedy assignment for misses, transitions for the next layer.

    `window`: steps counted together. `replaced`, `prefetched`: experts a layer at a window's end, and at each visit of
    the layer before. `depth`: prefetches that may wait for the link.
    """

    name = "dali"
    family = "hybrid execution"
    uses_forecaster = True
    stand_in = "learned layer-to-layer transitions for the next router on residual-corrected hidden states"

    def __init__(self, window: int = 64, replaced: int = 1, prefetched: int = 2, depth: int = 2) -> None:
        self.window = window
        self.replaced = replaced
        self.prefetched = prefetched
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An equal share of the slots for each layer, its most frequent experts first."""
        shape = setting.geometry
        self._dispatch = RuleDispatch(setting, "greedy-dali")
        self._top_k = shape.top_k
        self._forecaster = setting.forecaster_or("transition")
        self._forecaster.start(shape, setting.frequency_LE, setting.history)
        self._last_LE: FloatArray = self.window * shares_LE(shape, setting.frequency_LE)
        self._now_LE = np.zeros_like(self._last_LE)
        self._busy_LE = self._last_LE.copy()
        self._steps = [0] * shape.num_layers
        self._due: deque[int] = deque()
        return evenly(setting)

    def plan(self, demand: Demand, view: View) -> Decision:
        """Descending load, each expert to the lane that finishes it first."""
        return self._dispatch.decide(demand, view, self._busy_LE, per_layer=True)

    def observe(self, demand: Demand) -> None:
        """Count tokens; at the end of a window the layer is due for replacement."""
        layer = demand.layer
        self._now_LE[layer, demand.active] += demand.tokens
        self._busy_LE[layer, demand.active] += demand.tokens
        self._steps[layer] += 1
        if self._steps[layer] % self.window == 0:
            self._last_LE[layer] = self._busy_LE[layer] = self._now_LE[layer]
            self._now_LE[layer] = 0.0
            if layer not in self._due:
                self._due.append(layer)
        self._forecaster.observe(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """The next layer's likeliest, then replacements that are due."""
        space = room(demand, view, self.depth)
        if space <= 0:
            return ()
        found = self._next_layer(demand, view, space)
        if not found and self._due:
            found = self._replacement(self._due.popleft(), demand, view, space)
        return found

    def _next_layer(self, demand: Demand, view: View, space: int) -> list[Fetch]:
        layer, experts = demand.layer + 1, demand.num_experts
        if layer >= len(self._steps):
            return []
        likely, _ = expected(self._forecaster.next_LE()[layer], self._top_k, demand.num_tokens)
        wanted = [layer * experts + e for e in likely]
        most = min(space, self.prefetched)
        keep_F, cause = self._busy_LE.reshape(-1), "prefetch: likely in the next layer"
        return copies(wanted[:most], demand, view, keep_F, most, cause, layer=layer, kept=set(wanted))

    def _replacement(self, layer: int, demand: Demand, view: View, space: int) -> list[Fetch]:
        """The busiest absent experts of a layer for its least busy cached ones, as long as they were busier."""
        count_E, experts = self._last_LE[layer], demand.num_experts
        state_E = np.asarray(view.residency.states(layer))
        absent = np.flatnonzero(state_E == ABSENT)
        busiest = absent[np.argsort(-count_E[absent], kind="stable")[: min(space, self.replaced)]]
        cached = np.sort(count_E[state_E == RESIDENT])
        better = [layer * experts + int(e) for e, least in zip(busiest, cached, strict=False) if count_E[e] > least]
        cause = "prefetch: busier in the last window"
        if not better:
            return []
        keep_F = self._last_LE.reshape(-1)
        return copies(better, demand, view, keep_F, len(better), cause, layer=layer, below=float(keep_F[better[-1]]))
