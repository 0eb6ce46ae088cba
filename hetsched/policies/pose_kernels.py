"""A layer's dispatch problem from demand and residency, on a board, and the decision from its answer.

Shapes: N active experts of the layer, V places, L layers, E experts, F all experts flat (layer * E + expert).
"""

from __future__ import annotations

import numpy as np

from ..board import (
    ACTIVE,
    COPY_S,
    CPU_S,
    CPU_START_S,
    EXPERTS,
    FLYING,
    FREE,
    FREE_SLOT,
    GPU_S,
    LAYER,
    LAYERS,
    LINK_FREE_S,
    ON_CPU,
    ON_GPU,
    PLACES,
    PROBLEM_CPU_S,
    PROBLEM_LINK_S,
    RESIDENT,
    TOKENS,
    Board,
)
from ..board.rows import BEATS_CPU, CPU_SOONER, FETCHED, IN_FLIGHT, IS_RESIDENT, fetch, run
from ..dispatch.judge import gpu_order
from ..jit import compiled_lean
from ..types import FloatArray

NOBODY = np.int64(np.iinfo(np.int64).max)  # in place of the bits of a utility


@compiled_lean
def places(board: Board, utility_F: FloatArray, wanted: int, link_price_s: float) -> int:
    """The cheapest `wanted` places of all layers, into `victims_N`, and their prices into `packed_P`; how many.

    Each fetch pays `link_price_s` besides its victim's utility: what the copy engine would else have gained.
    """
    size, found = board.at[ACTIVE], cheapest(board, utility_F, wanted, 0, board.at[LAYERS])
    for v in range(found):
        board.packed_P[5 * size + v] += link_price_s
    return found


@compiled_lean
def columns(board: Board, seconds_4T: FloatArray, utility_F: FloatArray) -> int:
    """The layer's dispatch problem but for its places, into `packed_P`; how many experts are missing."""
    at, packed_P = board.at, board.packed_P
    size, first = at[ACTIVE], at[LAYER] * at[EXPERTS]
    link_free_s, missing = board.now[LINK_FREE_S], 0
    for i in range(size):
        f, tokens = first + board.active_N[i], board.tokens_N[i]
        packed_P[i], packed_P[size + i] = seconds_4T[GPU_S, tokens], seconds_4T[CPU_S, tokens]
        packed_P[2 * size + i], packed_P[3 * size + i] = utility_F[f], board.machine[COPY_S]
        packed_P[4 * size + i] = 0.0 if board.state_F[f] == RESIDENT else np.inf
        for j in range(at[FLYING]):
            if board.flying_F[j] == f:
                packed_P[4 * size + i] = board.left_s_F[j]
                link_free_s = max(link_free_s, board.left_s_F[j])
        missing += packed_P[4 * size + i] == np.inf
    board.now[PROBLEM_LINK_S], board.now[PROBLEM_CPU_S] = link_free_s, seconds_4T[CPU_START_S, at[TOKENS]]
    return missing


@compiled_lean
def pose(board: Board, seconds_4T: FloatArray, utility_F: FloatArray, link_price_s: float) -> None:
    """The layer's dispatch problem, into `packed_P`: seconds, and prices from `utility_F` (seconds saved)."""
    missing = columns(board, seconds_4T, utility_F)
    board.at[PLACES] = places(board, utility_F, missing, link_price_s)


@compiled_lean
def cheapest(board: Board, utility_F: FloatArray, wanted: int, begin_layer: int, end_layer: int) -> int:
    """Places for `wanted` experts into `victims_N`, at prices from `utility_F` in `packed_P`; how many there are.

    Free ones first, at no price, then residents of these layers that are not active, by ascending (utility, number).
    A layer is looked through only where its cheapest is cheap enough. Utilities are not negative, so that their bits
    have their order, and the least of a layer is found several at a time.
    """
    experts, size, free = board.at[EXPERTS], board.at[ACTIVE], min(board.at[FREE], wanted)
    price_V, found, bits_F = board.packed_P[5 * size : 6 * size], free, utility_F.view(np.int64)
    for v in range(free):
        board.victims_N[v], price_V[v] = FREE_SLOT, 0.0
    if wanted == free:
        return int(found)
    for l in range(begin_layer, end_layer):
        begin, end = l * experts, (l + 1) * experts
        least = NOBODY
        for f in range(begin, end):
            least = min(least, bits_F[f] if board.state_F[f] == RESIDENT else NOBODY)
        if least == NOBODY:
            continue
        for f in range(begin, end):
            if found == wanted and (least >= price_V[found - 1 :].view(np.int64)[0]):
                break
            if board.state_F[f] != RESIDENT or (found == wanted and utility_F[f] >= price_V[found - 1]):
                continue
            if l == board.at[LAYER] and f - begin in board.active_N[:size]:
                continue
            place = found if found < wanted else found - 1
            while place > free and price_V[place - 1] > utility_F[f]:
                price_V[place], board.victims_N[place] = price_V[place - 1], board.victims_N[place - 1]
                place -= 1
            price_V[place], board.victims_N[place] = utility_F[f], f
            found = min(found + 1, wanted)
    return int(found)


@compiled_lean
def to_rows(board: Board) -> None:
    """Runs and demanded fetches from `choice_N`, in the order in which the problem's makespan assumes them."""
    at, size = board.at, board.at[ACTIVE]
    packed_P, choice_N = board.packed_P[: 5 * size + at[PLACES]], board.choice_N[:size]
    first, fetches = at[LAYER] * at[EXPERTS], 0
    for place in range(gpu_order(packed_P, size, choice_N, board.mark_E)):
        i = board.mark_E[place]
        if choice_N[i] == 1:
            run(board, i, ON_GPU, IS_RESIDENT if packed_P[4 * size + i] == 0 else IN_FLIGHT)
        else:
            run(board, i, ON_GPU, FETCHED)
            fetch(board, first + board.active_N[i], board.victims_N[fetches], BEATS_CPU)
            fetches += 1
    for i in range(size):
        if choice_N[i] == 0:
            run(board, i, ON_CPU, CPU_SOONER)
