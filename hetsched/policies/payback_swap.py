"""payback-swap: an expert is swapped in when the next 128 tokens are expected to pay its copy back; misses on the CPU.

The rule of forks of llama.cpp (2026). Expected uses are a running mean of demand over as many tokens as the horizon
has; a use saves what an expert costs on the CPU more than on the GPU. One copy at a time.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..board import COPY_S, CPU_S, GPU_S, Board
from ..errors import InputError
from ..forecast import shares_LE
from ..jit import compiled_lean
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .compiled import PolicyKernels
from .static import most_frequent
from .swap_kernels import SOURCE, follow, plan, swap


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """The mean over as many tokens as are looked ahead."""
    mean_F, horizon = own
    follow(board, mean_F, 1.0 / horizon)


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """horizon * (mean of the newcomer - mean of the victim) * seconds saved > seconds of the copy."""
    mean_F, horizon = own
    saved_s = seconds_4T[CPU_S, 1] - seconds_4T[GPU_S, 1]
    if saved_s > 0.0:
        swap(board, mean_F, board.machine[COPY_S] / (saved_s * horizon))


KERNELS = PolicyKernels("payback-swap", ("hetsched.policies.payback_swap", SOURCE), plan, note=note, choose=choose)


class PaybackSwap(Kernelled):
    """`horizon`: tokens within which a copy has to pay, and over which demand is averaged."""

    name = "payback-swap"
    traits = Traits(family="dynamic placement")

    def __init__(self, horizon: float = 128.0) -> None:
        if not horizon >= 1.0:
            raise InputError(f"payback-swap's horizon is {horizon}; it must be at least 1 token")
        self.horizon = float(horizon)

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; means begin as their shares."""
        self._mean_F = shares_LE(setting.geometry, setting.frequency_LE).reshape(-1).copy()
        return most_frequent(setting)

    def kernels(self) -> PolicyKernels:
        """Misses on the CPU, and swaps that pay."""
        return KERNELS._replace(own=(self._mean_F, self.horizon))
