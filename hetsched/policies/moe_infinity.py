"""moe-infinity: what a request has used so far tells which past request it is like, and that one what comes next.

MoE-Infinity (arXiv 2401.14361). An expert activation matrix (EAM) counts a request's tokens per
expert:

* Miss: fetched, however long it takes.
* Eviction: lowest ratio * (1 - i / L) first, ratio = the request's share of layer i's tokens that went to the expert;
  so early layers, which no prefetch can be in time for, are protected.
* Prefetch: the stored EAM nearest to the request's (1 - mean over layers of the cosine) predicts; expert e of a later
  layer i has priority pEAM[i, e] * (1 - (i - l) / L), pEAM's rows as shares. What was prefetched and not yet reached
  stays.

The collection holds 1000 EAMs: those of the calibration sequences (the last ones), then finished requests; a full one
forgets what was nearest least often, as released (the paper clusters). Where a request begins the demand says. The
queue of prefetches is renewed at each layer, with `depth` copies in the link's.

Shapes: C stored EAMs, L layers, E experts, F both flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..board import MOST_COPIES
from ..forecast.activation_matrices import ActivationMatrices
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray

if TYPE_CHECKING:
    from .compiled import PolicyKernels


class MoeInfinity(Kernelled):
    """Fetches every miss; evicts and prefetches by request-level activation matrices."""

    name = "moe-infinity"
    traits = Traits(family="prediction")

    def __init__(self, capacity: int = 1000, depth: int = 1) -> None:
        self.capacity = capacity
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An empty cache: it fills by itself."""
        from .moe_infinity_kernels import begin_scores
        from .rule_kernels import Ruled

        shape = setting.geometry
        self._past = ActivationMatrices(shape.num_layers, shape.num_experts, self.capacity)
        self._past.add_history(setting.history)
        early_L = 1.0 - np.arange(shape.num_layers) / shape.num_layers
        score_LE: FloatArray = np.zeros((shape.num_layers, shape.num_experts))
        begin_scores(score_LE, early_L)
        scratch = np.zeros(MOST_COPIES, np.int64), np.zeros(MOST_COPIES)
        keep, waiting_F = Ruled(score_LE.reshape(-1)), np.zeros(score_LE.size, np.uint8)
        self._own = (*keep, self._past.arrays, early_L, waiting_F, self.depth, *scratch)
        return ()

    def kernels(self) -> PolicyKernels:
        """Every miss is fetched; the lowest score gives way; what the nearest request used next is copied."""
        from ..forecast.activation_kernels import SOURCE
        from .moe_infinity_kernels import choose, note
        from .rule_kernels import ruled

        planned = ruled(self.name, "all-fetch", note.__module__, self._own)
        return planned._replace(note=note, choose=choose, sources=(*planned.sources, SOURCE))
