"""Kernels of moe-spac: what its steps demand is remembered, and after each the boundaries are moved.

Shapes: F all experts flat (layer * E + expert), M steps remembered.
"""

from __future__ import annotations

from typing import Any

from ..board import ACTIVE, CPU_S, CPU_START_S, EXPERTS, GPU_S, LAYER, LAYERS, PHASE, SLOTS, TOKENS, Board
from ..jit import compiled_lean
from ..types import FloatArray
from .compiled import PolicyKernels
from .idle_kernels import waiting_room
from .moe_spac_kernels import SOURCES, copy_hot, move
from .moe_spac_program import Program, mark, solve
from .swap_kernels import plan

PREFILL = 0  # as types.Phase


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """Levels; and what the layer took on either lane, of a step that is no prefill."""
    levels, program = own
    move(board, levels)
    if board.at[PHASE] != PREFILL:
        remember(board, seconds_4T, program)
    first = board.at[LAYER] * board.at[EXPERTS]
    for f in range(first, first + board.at[EXPERTS]):
        levels.hot_F[f] = levels.hot_F[f] and levels.level_F[f] >= 1


@compiled_lean
def remember(board: Board, seconds_4T: FloatArray, program: Program) -> None:
    """The layer's seconds take the place of those of M steps ago; a step counts with its last layer."""
    at, m = board.at, program.seen[0] % len(program.start_s_M)
    first = at[LAYER] * at[EXPERTS]
    program.gpu_s_MF[m, first : first + at[EXPERTS]] = 0.0
    program.cpu_s_MF[m, first : first + at[EXPERTS]] = 0.0
    for i in range(at[ACTIVE]):
        f, tokens = first + board.active_N[i], board.tokens_N[i]
        program.gpu_s_MF[m, f], program.cpu_s_MF[m, f] = seconds_4T[GPU_S, tokens], seconds_4T[CPU_S, tokens]
    program.start_s_M[m] = seconds_4T[CPU_START_S, at[TOKENS]]
    program.seen[0] += at[LAYER] == at[LAYERS] - 1


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """The program after a step's last layer; then copies by its answer."""
    levels, program = own
    if not board.at[SLOTS]:
        return
    if board.at[LAYER] == board.at[LAYERS] - 1:
        solve(board, levels, program)
        mark(levels, program)
    space = waiting_room(board, levels.depth)
    if space > 0:
        copy_hot(board, levels, space)


HERE = ("hetsched.policies.moe_spac_online", "hetsched.policies.moe_spac_program")
ONLINE = PolicyKernels("moe-spac", (*SOURCES, *HERE), plan, note=note, choose=choose)
