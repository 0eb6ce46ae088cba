"""hybrimoe: a score-based cache, a list schedule over three lanes, and prefetches ranked by what they would save.

HybriMoE (arXiv 2504.05897), its three parts:

* Score-aware caching (MRS): S <- alpha * TopP(s) + (1 - alpha) * S with the router's scores s, of which only the p
  highest count; the lowest S is evicted first.
* Hybrid scheduling: the list schedule of `list-hybrimoe`. GPU takes what is here, CPU what is missing with low load,
  LINK what is missing with high load.
* Impact-driven prefetching: the routers of the next three layers on this layer's hidden state give candidates; each
  is worth makespan(layer) - makespan(layer with it on the GPU) in the simulated schedule, and the largest gain goes
  first.

Approximated: a trace has no hidden states, so learned transitions between layers stand in for the next routers.
Router weights are those of the chosen experts; where a trace holds none, token counts take their place. p is twice
the top_k; alpha, and the single copy that may wait in the link's queue, are ours, chosen on the first halves of
two traces. The cache starts with the most frequent experts.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..board import MOST_COPIES
from ..forecast import shares_LE
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .compiled import PolicyKernels
from .hybrimoe_kernels import MOST_CANDIDATES, RULE, choosing, note
from .learning import learning_of
from .rule_kernels import Ruled, ruled
from .static import most_frequent


class HybriMoe(Kernelled):
    """MRS cache, list schedule, prefetch by simulated gain.

    `alpha`: weight of the newest scores. `ahead`: layers looked into. `depth`: prefetches that may wait for the link.
    """

    name = "hybrimoe"
    traits = Traits(
        family="hybrid execution",
        stand_in="learned layer-to-layer transitions for the next routers on this layer's hidden state",
        uses_weights=True,
        uses_forecaster=True,
    )

    def __init__(self, alpha: float = 0.03, ahead: int = 3, depth: int = 1) -> None:
        self.alpha = alpha
        self.ahead = ahead
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; scores begin as their shares."""
        shape = setting.geometry
        self._forecaster = setting.forecaster_or("transition")
        self._forecaster.start(shape, setting.frequency_LE, setting.history)
        self._learning = learning_of(self._forecaster)
        self._score_LE: FloatArray = shares_LE(shape, setting.frequency_LE)
        ahead, experts = min(self.ahead, shape.num_layers), shape.num_experts
        found_2C, kept_F = np.zeros((2, ahead * MOST_CANDIDATES)), np.zeros(self._score_LE.size, np.uint8)
        room = np.zeros((4, max(experts, MOST_COPIES)), np.int64), np.zeros(6 * experts)
        tuning = self.alpha, shape.top_k, ahead, self.depth
        self._own = (*Ruled(self._score_LE.reshape(-1)), *tuning, self._learning.next_LE, found_2C, kept_F, *room)
        return most_frequent(setting)

    def kernels(self) -> PolicyKernels:
        """The list schedule; a fetch evicts the lowest score, and so does what would save most in the next layers."""
        planned = ruled(self.name, RULE, note.__module__, self._own)
        return self._learning.taught(planned._replace(note=note, choose=choosing(planned)))
