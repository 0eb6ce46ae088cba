"""Kernels of static placements, and of a stream that keeps nothing."""

from __future__ import annotations

from typing import Any

from ..board import ABSENT, ACTIVE, EVICTS, EXPERTS, FREE, FREE_SLOT, LAYER, RESIDENT, Board
from ..board.rows import WAS_MISSED, evict, fetch, misses_on_cpu
from ..jit import compiled_lean
from ..types import FloatArray
from .compiled import DECIDED, PolicyKernels


@compiled_lean
def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """Residents on the GPU, the rest on the CPU."""
    misses_on_cpu(board, seconds_4T)
    return DECIDED


@compiled_lean
def stream(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """Give up what the last layer used, fetch what this one asks for, as far as there are slots."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    board.mark_E[:] = 0
    for i in range(at[ACTIVE]):
        board.mark_E[board.active_N[i]] = 1
    for f in range(len(board.state_F)):
        is_active = first <= f < first + at[EXPERTS] and board.mark_E[f - first]
        if board.state_F[f] == RESIDENT and not is_active:
            evict(board, f)
    room = at[FREE] + at[EVICTS]
    for i in range(at[ACTIVE]):
        if room > 0 and board.state_F[first + board.active_N[i]] == ABSENT:
            fetch(board, first + board.active_N[i], FREE_SLOT, WAS_MISSED)
            room -= 1
    misses_on_cpu(board, seconds_4T)
    return DECIDED


KERNELS = PolicyKernels("static", ("hetsched.policies.static_kernels",), plan)
STREAM = PolicyKernels("layer-stream", ("hetsched.policies.static_kernels",), stream)
