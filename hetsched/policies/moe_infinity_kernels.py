"""Kernels of moe-infinity: the request's matrix, scores by it, and prefetches by the nearest stored one.

Shapes: L layers, E experts of a layer, F all experts flat (layer * E + expert), W copies chosen at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..board import ABSENT, ACTIVE, COPIES, EXPERTS, LAYER, LAYERS, NEW, NEW_REQUEST, SLOTS, Board, Bytes
from ..board.rows import IS_ALIKE
from ..forecast.activation_kernels import Matrices, begin, follow, nearest, store
from ..jit import compiled_lean
from ..types import FloatArray, IntArray
from .idle_kernels import copy_in, waiting_room

SMALL = 1e-6  # share of an expert that the request has not used


class Own(NamedTuple):
    """`score_F`: the lowest leaves first. `early_L`: 1 - i / L. `waiting_F`: 1 for prefetched, not yet reached.

    `new_W`, `priority_W`: room to compute in.
    """

    score_F: FloatArray
    past: Matrices
    early_L: FloatArray
    waiting_F: Bytes
    depth: int
    new_W: IntArray
    priority_W: FloatArray


@compiled_lean
def own_of(a: Any) -> Own:
    """The arrays by name; a[1] and a[2] are the plan's."""
    return Own(a[0], a[3], a[4], a[5], a[6], a[7], a[8])


def begin_scores(score_LE: FloatArray, early_L: FloatArray) -> None:
    """Scores of a request that has used nothing."""
    score_LE[:] = SMALL * early_L[:, None]


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """Count into the request's matrix; close the request where another begins."""
    own, at = own_of(arrays), board.at
    layer, experts, active = at[LAYER], at[EXPERTS], at[ACTIVE]
    if layer == 0 and at[NEW_REQUEST]:
        store(own.past, own.past.request_LE)
        begin(own.past)
        for f in range(len(own.score_F)):
            own.score_F[f] = SMALL * own.early_L[f // experts]
    follow(own.past, layer, board.active_N[:active], board.tokens_N[:active])
    total = 0.0
    for tokens in own.past.request_LE[layer]:
        total += tokens
    for e in range(experts):
        share = own.past.request_LE[layer, e] / total
        own.score_F[layer * experts + e] = (share + SMALL) * own.early_L[layer]
    own.waiting_F[: len(own.waiting_F) if layer == 0 else (layer + 1) * experts] = 0


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """The experts of later layers with the highest priority."""
    own, at = own_of(arrays), board.at
    space = waiting_room(board, own.depth)
    if space <= 0 or at[LAYER] + 1 >= at[LAYERS] or not at[SLOTS]:
        return
    place = nearest(own.past)
    if place < 0:
        return
    new_W = own.new_W[: _rank(board, own, place, space)]
    copy_in(board, new_W, own.priority_W, IS_ALIKE, own.score_F, np.inf, 0, len(own.score_F), own.waiting_F)
    for w in range(at[COPIES]):
        own.waiting_F[board.copies_3W[NEW, w]] = 1


@compiled_lean
def _rank(board: Board, own: Own, place: int, space: int) -> int:
    """The absent experts of the highest priority into `new_W`; how many.

    Priority: the share in the stored matrix, fading with the layers until then.
    """
    layer, layers, experts, found = board.at[LAYER], board.at[LAYERS], board.at[EXPERTS], 0
    for l in range(layer + 1, layers):
        total, fading = 0.0, 1.0 - (l - layer) / layers
        for e in range(experts):
            total += own.past.unit_LCE[l, place, e]
        for e in range(experts):
            priority = own.past.unit_LCE[l, place, e] / max(total, 1e-30) * fading
            if priority > 0.0 and board.state_F[l * experts + e] == ABSENT:
                found = _put(own, found, space, l * experts + e, priority)
    return found


@compiled_lean
def _put(own: Own, found: int, most: int, f: int, priority: float) -> int:
    """Put an expert among the first `found`, at most `most`: highest priority first, behind its equals."""
    if found == most and priority <= own.priority_W[most - 1]:
        return found
    place = found if found < most else most - 1
    while place > 0 and own.priority_W[place - 1] < priority:
        own.new_W[place], own.priority_W[place] = own.new_W[place - 1], own.priority_W[place - 1]
        place -= 1
    own.new_W[place], own.priority_W[place] = f, priority
    return min(found + 1, most)
