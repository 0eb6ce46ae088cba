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

from collections.abc import Sequence

import numpy as np

from ..forecast import shares_LE
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .compiled import PolicyKernels
from .dali_kernels import choose, note
from .learning import learning_of
from .rule_kernels import Ruled, ruled
from .static import evenly


class Dali(Kernelled):
    """Window counts of tokens for residency, greedy assignment for misses, transitions for the next layer.

    `window`: steps counted together. `replaced`, `prefetched`: experts a layer at a window's end, and at each visit of
    the layer before. `depth`: prefetches that may wait for the link.
    """

    name = "dali"
    traits = Traits(
        family="hybrid execution",
        stand_in="learned layer-to-layer transitions for the next router on residual-corrected hidden states",
        uses_forecaster=True,
    )

    def __init__(self, window: int = 64, replaced: int = 1, prefetched: int = 2, depth: int = 2) -> None:
        self.window = window
        self.replaced = replaced
        self.prefetched = prefetched
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An equal share of the slots for each layer, its most frequent experts first."""
        shape = setting.geometry
        self._forecaster = setting.forecaster_or("transition")
        self._forecaster.start(shape, setting.frequency_LE, setting.history)
        self._learning = learning_of(self._forecaster)
        last_LE: FloatArray = self.window * shares_LE(shape, setting.frequency_LE)
        self._busy_LE = last_LE.copy()
        counts = last_LE.reshape(-1), np.zeros(last_LE.size), np.zeros(shape.num_layers, np.int64)
        tuning = self.window, self.replaced, self.prefetched, self.depth, shape.top_k
        due_L, wanted_2E = np.zeros(1 + shape.num_layers, np.int64), np.zeros((2, shape.num_experts), np.int64)
        spare = wanted_2E, np.zeros(shape.num_experts), np.zeros(last_LE.size, np.uint8)
        keep = Ruled(self._busy_LE.reshape(-1), per_layer=True)
        self._own = (*keep, *tuning, self._learning.next_LE, *counts, due_L, *spare)
        return evenly(setting)

    def kernels(self) -> PolicyKernels:
        """Greedy assignment; then the next layer's likeliest, or replacements that are due."""
        planned = ruled(self.name, "greedy-dali", note.__module__, self._own)
        return self._learning.taught(planned._replace(note=note, choose=choose))
