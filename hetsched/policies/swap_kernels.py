"""Kernels of placements that follow the run: misses on the CPU, and swaps on an idle link while a score says they pay.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from typing import Any

from ..board import ABSENT, ACTIVE, EXPERTS, FLYING, FREE, FREE_SLOT, LAYER, RESIDENT, SLOTS, TOKENS, Board
from ..board.rows import USED_MORE, copy_ahead, misses_on_cpu
from ..jit import compiled_lean
from ..types import FloatArray
from .compiled import DECIDED

SOURCE = "hetsched.policies.swap_kernels"


@compiled_lean
def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """Residents on the GPU, the rest on the CPU."""
    misses_on_cpu(board, seconds_4T)
    return DECIDED


@compiled_lean
def follow(board: Board, mean_F: FloatArray, rate: float) -> None:
    """Move the layer's mean demand, in tokens per token, by one step: m <- m + rate * (demanded - m) for each token."""
    first, tokens = board.at[LAYER] * board.at[EXPERTS], board.at[TOKENS]
    moved = 1.0 - (1.0 - rate) ** tokens
    for f in range(first, first + board.at[EXPERTS]):
        mean_F[f] -= moved * mean_F[f]
    for i in range(board.at[ACTIVE]):
        mean_F[first + board.active_N[i]] += moved * board.tokens_N[i] / tokens


@compiled_lean
def mark_active(board: Board) -> None:
    """Mark in `mark_E` what the layer asks for."""
    board.mark_E[:] = 0
    for i in range(board.at[ACTIVE]):
        board.mark_E[board.active_N[i]] = 1


@compiled_lean
def least_idle(board: Board, score_F: FloatArray) -> int:
    """The resident of the least score that the layer (see mark_active) does not ask for; -1 where there is none."""
    first, experts, victim = board.at[LAYER] * board.at[EXPERTS], board.at[EXPERTS], -1
    for f in range(len(score_F)):
        if board.state_F[f] != RESIDENT or (victim >= 0 and score_F[f] >= score_F[victim]):
            continue
        if not (first <= f < first + experts and board.mark_E[f - first]):
            victim = f
    return victim


@compiled_lean
def swap(board: Board, score_F: FloatArray, least: float) -> bool:
    """Copy the absent expert of the highest score over the resident of the lowest, if it is more than `least` better.

    Only onto a link that is idle; a free slot is worth nothing. Whether a copy was chosen.
    """
    at, new = board.at, -1
    if not at[SLOTS] or at[FLYING]:
        return False
    for f in range(len(score_F)):
        if board.state_F[f] == ABSENT and (new < 0 or score_F[f] > score_F[new]):
            new = f
    mark_active(board)
    victim = FREE_SLOT if at[FREE] else least_idle(board, score_F)
    if new < 0 or (victim == FREE_SLOT and not at[FREE]):
        return False
    gain = score_F[new] - (score_F[victim] if victim != FREE_SLOT else 0.0)
    if gain <= least:
        return False
    copy_ahead(board, new, victim, gain, USED_MORE)
    return True
