"""Kernels of dali: windows of counts, the next layer's likeliest, replacements at a window's end.

Shapes: L layers, E experts of a layer, F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..board import ABSENT, ACTIVE, COPIES, EXPERTS, LAYER, LAYERS, RESIDENT, TOKENS, Board, Bytes
from ..board.rows import IS_LIKELY, WAS_BUSIER
from ..jit import compiled_lean
from ..types import FloatArray, IntArray
from .idle_kernels import copy_in, expected, next_in_line, waiting_room


class Own(NamedTuple):
    """The policy's arrays and tuning.

    `busy_F`: tokens of the last window and, beyond it, of the one under way; what is kept longest. `last_F`, `now_F`:
    those windows alone. `steps_L`: visits of a layer. `due_L`: how many layers are due for replacement, then which.
    `gain_s_E` stays zero; the others are room to compute in.
    """

    busy_F: FloatArray
    window: int
    replaced: int
    prefetched: int
    depth: int
    top_k: int
    next_LE: FloatArray
    last_F: FloatArray
    now_F: FloatArray
    steps_L: IntArray
    due_L: IntArray
    wanted_2E: IntArray
    gain_s_E: FloatArray
    kept_F: Bytes


@compiled_lean
def own_of(a: Any) -> Own:
    """The arrays by name; a[1] and a[2] are the plan's."""
    return Own(a[0], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15])


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """Count tokens; at the end of a window the layer is due for replacement."""
    own, layer, experts = own_of(arrays), board.at[LAYER], board.at[EXPERTS]
    first = layer * experts
    for i in range(board.at[ACTIVE]):
        own.now_F[first + board.active_N[i]] += board.tokens_N[i]
        own.busy_F[first + board.active_N[i]] += board.tokens_N[i]
    own.steps_L[layer] += 1
    if own.steps_L[layer] % own.window:
        return
    for f in range(first, first + experts):
        own.last_F[f] = own.busy_F[f] = own.now_F[f]
        own.now_F[f] = 0.0
    due_L = own.due_L
    if layer not in due_L[1 : 1 + due_L[0]]:
        due_L[0] += 1
        due_L[due_L[0]] = layer


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """The next layer's likeliest; where none of them is copied, a replacement that is due."""
    own = own_of(arrays)
    space = waiting_room(board, own.depth)
    if space <= 0:
        return
    if board.at[LAYER] + 1 < board.at[LAYERS]:
        _next_layer(board, own, space)
    due_L = own.due_L
    if board.at[COPIES] == 0 and due_L[0]:
        layer = due_L[1]
        for i in range(1, due_L[0]):
            due_L[i] = due_L[i + 1]
        due_L[0] -= 1
        _replacement(board, own, layer, space)


@compiled_lean
def _next_layer(board: Board, own: Own, space: int) -> None:
    """The likeliest of the next layer for its least busy ones that are not likely."""
    layer, experts = board.at[LAYER] + 1, board.at[EXPERTS]
    wanted_E, first = own.wanted_2E[0], layer * experts
    count = expected(own.next_LE[layer], own.top_k, board.at[TOKENS], wanted_E, own.wanted_2E[1])
    for i in range(count):
        wanted_E[i] += first
        own.kept_F[wanted_E[i]] = 1
    most = min(count, min(space, own.prefetched))
    copy_in(board, wanted_E[:most], own.gain_s_E, IS_LIKELY, own.busy_F, np.inf, first, first + experts, own.kept_F)
    for i in range(count):
        own.kept_F[wanted_E[i]] = 0


@compiled_lean
def _replacement(board: Board, own: Own, layer: int, space: int) -> None:
    """The busiest absent experts of a layer for its least busy cached ones, as long as they were busier."""
    first, end = layer * board.at[EXPERTS], (layer + 1) * board.at[EXPERTS]
    new_E, new, old, better = own.wanted_2E[0], -1, -1, 0
    for _ in range(min(space, own.replaced)):
        new = next_in_line(board, ABSENT, own.last_F, -1.0, first, end, new)
        old = next_in_line(board, RESIDENT, own.last_F, 1.0, first, end, old)
        if new < 0 or old < 0 or own.last_F[new] <= own.last_F[old]:
            break
        new_E[better] = new
        better += 1
    if better:
        below = own.last_F[new_E[better - 1]]
        copy_in(board, new_E[:better], own.gain_s_E, WAS_BUSIER, own.last_F, below, first, end, own.kept_F)
