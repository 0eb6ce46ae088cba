"""Copies for an idle link as kernels: newcomers in a rule's order, in the places that it values least.

Shapes: F all experts flat (layer * E + expert), E experts of a layer, W newcomers.
"""

from __future__ import annotations

import numpy as np

from ..board import (
    ABSENT,
    ACTIVE,
    EXPERTS,
    FLYING,
    FREE,
    FREE_SLOT,
    LAYER,
    MOST_COPIES,
    RESIDENT,
    Board,
    Bytes,
)
from ..board.rows import copy_ahead
from ..jit import compiled_lean
from ..types import FloatArray, IntArray


@compiled_lean
def waiting_room(board: Board, depth: int) -> int:
    """How many prefetches may be added where at most `depth` shall wait behind the copies that the layer waits for."""
    first, waiting = board.at[LAYER] * board.at[EXPERTS], 0
    for j in range(board.at[FLYING]):
        is_demanded = False
        for i in range(board.at[ACTIVE]):
            is_demanded |= board.flying_F[j] == first + board.active_N[i]
        waiting += not is_demanded
    return int(min(depth - waiting, MOST_COPIES))


@compiled_lean
def expected(next_E: FloatArray, top_k: int, num_tokens: int, wanted_E: IntArray, tokens_E: IntArray) -> int:
    """Experts that a layer is expected to ask for in a step of so many tokens, likeliest first, and their tokens.

    `next_E`: P(demanded) by one token. One token asks for the top_k likeliest; in larger steps an expert is expected
    where its mean is at least half a token. Returns how many.
    """
    count, most = 0, top_k if num_tokens == 1 else len(next_E)
    for e in range(len(next_E)):
        if num_tokens > 1 and next_E[e] * num_tokens < 0.5:
            continue
        count = put_among(wanted_E, count, most, next_E, e)
    for i in range(count):
        tokens_E[i] = min(max(int(np.rint(next_E[wanted_E[i]] * num_tokens)), 1), num_tokens)
    return count


@compiled_lean
def put_among(order_E: IntArray, count: int, most: int, key_E: FloatArray, e: int) -> int:
    """Put e among the first `count`, at most `most`: largest key first, behind its equals; how many there are then."""
    if count == most and key_E[e] <= key_E[order_E[most - 1]]:
        return count
    place = count if count < most else most - 1
    while place > 0 and key_E[order_E[place - 1]] < key_E[e]:
        order_E[place] = order_E[place - 1]
        place -= 1
    order_E[place] = e
    return min(count + 1, most)


@compiled_lean
def next_in_line(board: Board, state: int, value_F: FloatArray, sign: float, first: int, end: int, last: int) -> int:
    """Of experts first..end - 1 in this state the one with the lowest (sign * value, number) after `last`'s, or -1.

    `last` < 0: the lowest of all.
    """
    best = -1
    for f in range(first, end):
        if board.state_F[f] != state or (last >= 0 and not _is_before(value_F, sign, last, f)):
            continue
        if best < 0 or _is_before(value_F, sign, f, best):
            best = f
    return best


@compiled_lean
def _is_before(value_F: FloatArray, sign: float, a: int, b: int) -> bool:
    return bool(sign * value_F[a] < sign * value_F[b] or (value_F[a] == value_F[b] and a < b))


@compiled_lean
def copy_in(
    board: Board,
    new_W: IntArray,
    gain_s_W: FloatArray,
    why: int,
    keep_F: FloatArray,
    below: float,
    first: int,
    end: int,
    kept_F: Bytes,
) -> None:
    """Copies of the absent experts among `new_W`, in that order, as long as there are places.

    Each takes a free slot, or the idle resident with the lowest `keep_F` less than `below` of those numbered
    first..end - 1, none of which `kept_F` marks.
    """
    free, last, last_value = board.at[FREE], -1, -np.inf
    for w in range(len(new_W)):
        if board.state_F[new_W[w]] != ABSENT:
            continue
        victim = FREE_SLOT
        if free > 0:
            free -= 1
        else:
            victim = _next_lowest(board, keep_F, last_value, last, below, first, end, kept_F)
            if victim < 0:
                return
            last, last_value = victim, keep_F[victim]
        copy_ahead(board, new_W[w], victim, gain_s_W[w], why)


@compiled_lean
def _next_lowest(
    board: Board,
    keep_F: FloatArray,
    after_value: float,
    after: int,
    below: float,
    first: int,
    end: int,
    kept_F: Bytes,
) -> int:
    """Of idle residents the one with the lowest (value, number) after the last one; -1 for none."""
    own, best, best_value = board.at[LAYER] * board.at[EXPERTS], -1, below
    for f in range(first, end):
        value = keep_F[f]
        if board.state_F[f] != RESIDENT or kept_F[f] or value >= best_value:
            continue
        if value < after_value or (value == after_value and f <= after):
            continue
        if own <= f < own + board.at[EXPERTS] and f - own in board.active_N[: board.at[ACTIVE]]:
            continue
        best, best_value = f, value
    return best
