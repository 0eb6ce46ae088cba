"""Kernels of static placements."""

from __future__ import annotations

from typing import Any

from ..board import Board
from ..board.rows import misses_on_cpu
from ..jit import compiled_lean
from ..types import FloatArray
from .compiled import DECIDED, PolicyKernels


@compiled_lean
def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """Residents on the GPU, the rest on the CPU."""
    misses_on_cpu(board, seconds_4T)
    return DECIDED


KERNELS = PolicyKernels("static", ("hetsched.policies.static_kernels",), plan)
