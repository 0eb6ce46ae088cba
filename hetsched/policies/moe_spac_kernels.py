"""Kernels of moe-spac and moe-spac-fixed: levels that demand counts move, and copies and victims by level.

Shapes: E experts of a layer, F all experts flat (layer * E + expert), W copies chosen at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..board import ABSENT, ACTIVE, EXPERTS, LAYER, LAYERS, MOST_COPIES, SLOTS, Board, Bytes
from ..board.rows import IS_HOT
from ..jit import compiled_lean
from ..types import FloatArray, IntArray
from .compiled import PolicyKernels
from .idle_kernels import copy_in, waiting_room
from .swap_kernels import SOURCE, plan

TOP_LEVEL = 5
FROZEN = 6  # of the running layer, and of whoever is to stay: no victim


class Levels(NamedTuple):
    """One utility space: `level_F` 0..5.

    `hot_F`: 1 for who is copied when absent. `keep_F`: the level of who may leave, FROZEN of others. `up`, `down`:
    differences of count and level at which it moves. `depth`: prefetches that may wait for the link. `running_F`,
    `new_W`, `gain_s_W`: room to compute in.
    """

    level_F: IntArray
    hot_F: Bytes
    keep_F: FloatArray
    up: int
    down: int
    depth: int
    running_F: Bytes
    new_W: IntArray
    gain_s_W: FloatArray


def first_levels(flat: int, up: int, down: int, depth: int) -> Levels:
    """All levels 0; nobody is copied, and nobody leaves before levels are looked at."""
    hot_F, running_F = np.zeros(flat, np.uint8), np.zeros(flat, np.uint8)
    keep_F, spare = np.full(flat, float(FROZEN)), (np.zeros(MOST_COPIES, np.int64), np.zeros(MOST_COPIES))
    return Levels(np.zeros(flat, np.int64), hot_F, keep_F, up, down, depth, running_F, *spare)


@compiled_lean
def move(board: Board, levels: Levels) -> None:
    """Move the levels of the layer's experts by what it demanded of them."""
    first, level_F, count_E = board.at[LAYER] * board.at[EXPERTS], levels.level_F, board.mark_E
    count_E[:] = 0
    for i in range(board.at[ACTIVE]):
        count_E[board.active_N[i]] = board.tokens_N[i]
    for e in range(board.at[EXPERTS]):
        more = count_E[e] - level_F[first + e]
        moved = level_F[first + e] + int(more >= levels.up) - int(more <= -levels.down)
        level_F[first + e] = min(max(moved, 0), TOP_LEVEL)


@compiled_lean
def divide(levels: Levels, threshold: int) -> None:
    """Hot from this level on, below it cold."""
    for f in range(len(levels.level_F)):
        is_hot = levels.level_F[f] >= threshold
        levels.hot_F[f] = is_hot
        levels.keep_F[f] = FROZEN if is_hot else levels.level_F[f]


@compiled_lean
def copy_hot(board: Board, levels: Levels, space: int) -> None:
    """At most `space` copies of absent hot experts: highest level first, of equals the next layer to run first.

    A victim is the lowest of those that may leave; the running layer is frozen.
    """
    at, found = board.at, 0
    while found < space:
        last = levels.new_W[found - 1] if found else -1
        new = _next_hot(board, levels, last)
        if new < 0:
            break
        levels.new_W[found] = new
        found += 1
    first = at[LAYER] * at[EXPERTS]
    levels.running_F[first : first + at[EXPERTS]] = 1
    end, new_W = len(levels.keep_F), levels.new_W[:found]
    copy_in(board, new_W, levels.gain_s_W, IS_HOT, levels.keep_F, float(FROZEN), 0, end, levels.running_F)
    levels.running_F[first : first + at[EXPERTS]] = 0


@compiled_lean
def _next_hot(board: Board, levels: Levels, last: int) -> int:
    """Of absent hot experts the one to be copied next after `last` (-1: the first of all), or -1."""
    best, best_key, last_key = -1, 0, _key(board, levels, last) if last >= 0 else -1
    for f in range(len(levels.hot_F)):
        if not levels.hot_F[f] or board.state_F[f] != ABSENT:
            continue
        key = _key(board, levels, f)
        is_left = key > last_key or (key == last_key and f > last)
        if is_left and (best < 0 or key < best_key):
            best, best_key = f, key
    return best


@compiled_lean
def _key(board: Board, levels: Levels, f: int) -> int:
    """The order of copies, ascending: by falling level, then by layers until its own runs."""
    layers = board.at[LAYERS]
    ahead = (f // board.at[EXPERTS] - board.at[LAYER] - 1) % layers
    return int((TOP_LEVEL - levels.level_F[f]) * layers + ahead)


@compiled_lean
def note_fixed(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """Levels."""
    move(board, own[0])


@compiled_lean
def choose_fixed(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """Copies by the threshold."""
    levels, threshold = own
    space = waiting_room(board, levels.depth)
    if space > 0 and board.at[SLOTS]:
        divide(levels, threshold)
        copy_hot(board, levels, space)


SOURCES = ("hetsched.policies.moe_spac_kernels", SOURCE, "hetsched.policies.idle_kernels")
FIXED = PolicyKernels("moe-spac-fixed", SOURCES, plan, note=note_fixed, choose=choose_fixed)
