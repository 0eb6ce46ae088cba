"""moe-spac, moe-spac-fixed: verify steps as a sensor, one level per expert, one threshold for copies and victims.

MoE-SpAc (arXiv 2603.09983) and its public code. Every expert has a level s in 0..5. When its layer has run with
`count` tokens for it: up one where count - s >= 5, down one where s - count >= 1. Misses run on the CPU. In the
background, absent experts of level >= threshold are copied, highest level first and the next layer to run first; a
victim's level is below the threshold, the lowest goes first, and the running layer is frozen.

moe-spac-fixed has the threshold that the public code fixes, 1. moe-spac chooses it once a step, as the paper does, by
an integer program that balances the lanes: of the six thresholds, the one with the shortest step, taken as the longer
of what the compute lanes need (layer by layer the longer of GPU and CPU, with the tokens of the last step) and what
its copies need on the link; among equals the highest, which copies least.

Only a step that gives an expert five tokens raises a level, so without verify (or prefill) steps nothing ever moves.
Approximated: the cache starts with the most frequent experts instead of empty slots; the program's objective is our
reading of the paper; the link's queue holds one copy at most.

Shapes: L layers, E experts, F both flat.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..policy import Decision, Setting, Traits, View
from ..residency import ABSENT, RESIDENT
from ..types import BoolArray, Demand, ExpertId, Fetch, FloatArray, IntArray
from .idle_link import copies, room
from .misses import misses_on_cpu
from .static import most_frequent

TOP_LEVEL = 5


class MoeSpacFixed:
    """Levels from demand counts, threshold 1.

    `up`, `down`: differences of count and level at which it moves. `depth`: prefetches that may wait for the link.
    """

    name = "moe-spac-fixed"
    traits = Traits(family="speculation")

    def __init__(self, up: int = 5, down: int = 1, depth: int = 1) -> None:
        self.up = up
        self.down = down
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; all levels 0."""
        shape = setting.geometry
        self._setting = setting
        self._layers = np.arange(shape.num_layers)
        self._level_LE: IntArray = np.zeros((shape.num_layers, shape.num_experts), np.int64)
        self.threshold = 1
        return most_frequent(setting)

    def plan(self, demand: Demand, view: View) -> Decision:
        """Misses on the CPU."""
        return misses_on_cpu(demand, view, self._setting)

    def observe(self, demand: Demand) -> None:
        """Move the levels of the layer's experts."""
        level_E = self._level_LE[demand.layer]
        more_E = demand.tokens_E - level_E
        step_E = (more_E >= self.up).astype(np.int64) - (more_E <= -self.down)
        np.clip(level_E + step_E, 0, TOP_LEVEL, out=level_E)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Absent experts of level >= threshold, highest first, the next layer to run first."""
        space = room(demand, view, self.depth)
        if space <= 0:
            return ()
        level_F = self._level_LE.reshape(-1)
        wanted = np.flatnonzero((level_F >= self.threshold) & (view.residency.state_LE.reshape(-1) == ABSENT))
        if not len(wanted):
            return ()
        ahead = (wanted // demand.num_experts - demand.layer - 1) % len(self._layers)
        order = np.lexsort((ahead, -level_F[wanted]))
        cause = f"prefetch: level {self.threshold} or more"
        keep_F = np.where(self._frozen(demand), np.inf, level_F)
        return copies(wanted[order].tolist(), demand, view, keep_F, space, cause, below=float(self.threshold))

    def _frozen(self, demand: Demand) -> BoolArray:
        """The running layer's experts."""
        return np.repeat(self._layers == demand.layer, demand.num_experts)


class MoeSpac(MoeSpacFixed):
    """Levels from demand counts, threshold chosen online."""

    name = "moe-spac"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; all levels 0, threshold 1 until a step has been seen."""
        initial = super().start(setting)
        self._tokens_LE = np.zeros_like(self._level_LE)
        self._seen = 0
        return initial

    def observe(self, demand: Demand) -> None:
        """Move the levels, and remember the step's tokens."""
        super().observe(demand)
        self._tokens_LE[demand.layer] = demand.tokens_E
        self._seen += 1

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Choose the threshold after a step's last layer, then copy as above."""
        layers = len(self._layers)
        if view.residency.num_slots and self._seen >= layers and demand.layer == layers - 1:
            self.threshold = self.best_threshold(view)
        return super().prefetch(demand, view)

    def best_threshold(self, view: View) -> int:
        """The integer program: one variable in 1..6 (6: nothing is copied), all values tried, highest among equals."""
        cost, tokens_F = self._setting.cost, self._tokens_LE.reshape(-1)
        gpu_s_F, cpu_s_F = cost.gpu_s(tokens_F), cost.cpu_s(tokens_F)
        best, best_s = TOP_LEVEL + 1, np.inf
        for threshold in range(TOP_LEVEL + 1, 0, -1):
            on_gpu_F, num_copies = self._after(threshold, view)
            step_s = max(self._compute_s(on_gpu_F, gpu_s_F, cpu_s_F), num_copies * cost.copy_s())
            if step_s < best_s:
                best, best_s = threshold, step_s
        return best

    def _after(self, threshold: int, view: View) -> tuple[BoolArray, int]:
        """Who would be on the GPU with this threshold, and the copies that it takes."""
        level_F, state_F = self._level_LE.reshape(-1), view.residency.state_LE.reshape(-1)
        on_gpu_F = state_F != ABSENT
        wanted = np.flatnonzero((level_F >= threshold) & ~on_gpu_F)
        victims = np.flatnonzero((level_F < threshold) & (state_F == RESIDENT))
        free = view.residency.free_slots
        num_copies = min(len(wanted), free + len(victims))
        taken = wanted[np.argsort(-level_F[wanted], kind="stable")[:num_copies]]
        left = victims[np.argsort(level_F[victims], kind="stable")[: max(num_copies - free, 0)]]
        on_gpu_F[taken], on_gpu_F[left] = True, False
        return on_gpu_F, num_copies

    def _compute_s(self, on_gpu_F: BoolArray, gpu_s_F: FloatArray, cpu_s_F: FloatArray) -> float:
        """Seconds of the compute lanes for the last step's tokens, layer by layer the longer one."""
        shape = self._level_LE.shape
        gpu_s_L = np.where(on_gpu_F, gpu_s_F, 0.0).reshape(shape).sum(axis=1)
        cpu_s_L = np.where(on_gpu_F, 0.0, cpu_s_F).reshape(shape).sum(axis=1)
        return float(np.maximum(gpu_s_L, cpu_s_L).sum())
