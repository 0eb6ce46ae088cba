"""kt-dynamic: the placement of kTransformers, renewed every N tokens by what was used in them; misses on the CPU.

kTransformers' dynamic expert update (2026): static-frequency whose frequencies are recent. Ours: the renewal is copied
over an idle link, one expert at a time, most used first, so that the layers meanwhile do not wait for it.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..board import ACTIVE, EXPERTS, LAYER, TOKENS, Board
from ..errors import InputError
from ..jit import compiled_lean
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .compiled import PolicyKernels
from .static import most_frequent
from .swap_kernels import SOURCE, plan, swap

SEEN, EVERY, RENEWING = range(3)  # places in `numbers_3`: tokens of this window, its length, whether copies are due


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """Count the layer's tokens; with the step that begins after a full window, its counts are those that place."""
    now_F, last_F, numbers_3 = own
    first = board.at[LAYER] * board.at[EXPERTS]
    if first == 0:
        if numbers_3[SEEN] >= numbers_3[EVERY]:
            for f in range(len(now_F)):
                last_F[f], now_F[f] = now_F[f], 0.0
            numbers_3[SEEN], numbers_3[RENEWING] = 0.0, 1.0
        numbers_3[SEEN] += board.at[TOKENS]
    for i in range(board.at[ACTIVE]):
        now_F[first + board.active_N[i]] += board.tokens_N[i]


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """The most used absent expert for the least used resident one, until none was used more often."""
    _, last_F, numbers_3 = own
    if numbers_3[RENEWING]:
        swap(board, last_F, 0.0)


KERNELS = PolicyKernels("kt-dynamic", ("hetsched.policies.kt_dynamic", SOURCE), plan, note=note, choose=choose)


class KtDynamic(Kernelled):
    """`every`: tokens between two renewals, and that each counts."""

    name = "kt-dynamic"
    traits = Traits(family="dynamic placement")

    def __init__(self, every: int = 128) -> None:
        if every < 1:
            raise InputError(f"kt-dynamic is renewed every {every} tokens; it must be at least 1")
        self.every = every

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Pairs by descending calibration frequency."""
        shape = setting.geometry
        zeros_F = np.zeros(shape.num_layers * shape.num_experts)
        self._own = zeros_F, zeros_F.copy(), np.array([0.0, self.every, 0.0])
        return most_frequent(setting)

    def kernels(self) -> PolicyKernels:
        """Misses on the CPU, and the renewal under way."""
        return KERNELS._replace(own=self._own)
