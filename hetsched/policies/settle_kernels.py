"""Layers of one token, whose dispatch is a matter of counting, on a board.

Shapes: N active experts of the layer, E experts, F all experts flat (layer * E + expert).
"""

from __future__ import annotations

import numpy as np

from ..board import (
    ABSENT,
    ACTIVE,
    COPY_S,
    COPYING,
    CPU_S,
    CPU_START_S,
    EXPERTS,
    GPU_CALL_S,
    GPU_S,
    HAS_GPU,
    LAYER,
    LINK_FREE_S,
    ON_CPU,
    ON_GPU,
    PLACES,
    PREDICTED_S,
    RESIDENT,
    SLOTS,
    STATUS,
    Board,
)
from ..board.rows import BEATS_CPU, CPU_SOONER, FETCHED, IS_RESIDENT, fetch, run
from ..dispatch.answers import OPTIMAL
from ..jit import compiled_lean
from ..types import FloatArray
from .pose_kernels import places


@compiled_lean
def settle(board: Board, seconds_4T: FloatArray, utility_F: FloatArray, link_price_s: float) -> bool:
    """The optimal decision for one token with nothing in flight, by counting; False where there is something in flight.

    One token's experts are alike but for their utilities. So a choice is two numbers: how many are fetched, the most
    useful first into the cheapest places, and how many residents leave the GPU for the CPU. Places cost nothing at
    first: who cannot gain then gains nothing at their price either, and nobody looks for places.
    """
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    here = missing = 0
    for i in range(at[ACTIVE]):
        state = board.state_F[first + board.active_N[i]]
        if state == COPYING:
            return False
        here += state == RESIDENT
        if state == ABSENT:
            _insert(board, missing, i, utility_F)
            missing += 1
    most = missing if at[SLOTS] and board.machine[HAS_GPU] else 0
    for v in range(missing):
        board.packed_P[5 * at[ACTIVE] + v] = link_price_s
    fetched, moved = _best_counts(board, seconds_4T, utility_F, here, missing, most)
    if fetched:
        at[PLACES] = places(board, utility_F, missing, link_price_s)
        fetched, moved = _best_counts(board, seconds_4T, utility_F, here, missing, at[PLACES])
    _settled(board, here - moved, fetched)
    board.now[PREDICTED_S] = _makespan_s(board, seconds_4T, here - moved, fetched, missing - fetched + moved)
    at[STATUS] = OPTIMAL
    return True


@compiled_lean
def _insert(board: Board, count: int, i: int, utility_F: FloatArray) -> None:
    """Put an active expert among the `count` missing ones in `mark_E`, most useful first, ties by number."""
    first, place = board.at[LAYER] * board.at[EXPERTS], count
    worth_s = utility_F[first + board.active_N[i]]
    while place > 0 and utility_F[first + board.active_N[board.mark_E[place - 1]]] < worth_s:
        board.mark_E[place] = board.mark_E[place - 1]
        place -= 1
    board.mark_E[place] = i


@compiled_lean
def _best_counts(
    board: Board, seconds_4T: FloatArray, utility_F: FloatArray, here: int, missing: int, most: int
) -> tuple[int, int]:
    """How many of the missing to fetch, `most` at most, and how many residents to move, for the least objective.

    Prices of places are in `packed_P`, the missing in `mark_E`.
    """
    first, price_V = board.at[LAYER] * board.at[EXPERTS], board.packed_P[5 * board.at[ACTIVE] :]
    best_s, best_fetched, best_moved, prices_s = np.inf, 0, 0, 0.0
    for fetched in range(most + 1):
        if fetched:
            prices_s += price_V[fetched - 1] - utility_F[first + board.active_N[board.mark_E[fetched - 1]]]
        last_s = np.inf
        for moved in range(here + 1):
            found_s = _makespan_s(board, seconds_4T, here - moved, fetched, missing - fetched + moved)
            if found_s >= last_s:  # the GPU's end falls and the CPU's rises: the first that is no better ends it
                break
            last_s = found_s
            if found_s + prices_s < best_s:
                best_s, best_fetched, best_moved = found_s + prices_s, fetched, moved
    return best_fetched, best_moved


@compiled_lean
def _makespan_s(board: Board, seconds_4T: FloatArray, here: int, fetched: int, on_cpu: int) -> float:
    """Seconds of a layer of one token with so many residents and fetched ones on the GPU, and others on the CPU."""
    gpu_s, gpu_end_s = seconds_4T[GPU_S, 1], 0.0
    if here + fetched:
        gpu_end_s = board.machine[GPU_CALL_S] + here * gpu_s
    arrival_s = board.now[LINK_FREE_S]
    for _ in range(fetched):
        arrival_s += board.machine[COPY_S]
        gpu_end_s = max(gpu_end_s, arrival_s) + gpu_s
    if on_cpu == 0:
        return float(gpu_end_s)
    return float(max(gpu_end_s, seconds_4T[CPU_START_S, 1] + on_cpu * seconds_4T[CPU_S, 1]))


@compiled_lean
def _settled(board: Board, kept: int, fetched: int) -> None:
    """Rows: the first `kept` residents on the GPU, the fetched ones, on the CPU what is missing and other residents."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    for k in range(fetched):
        fetch(board, first + board.active_N[board.mark_E[k]], board.victims_N[k], BEATS_CPU)
    for stage in range(4):
        rank = 0
        for i in range(at[ACTIVE]):
            is_here, is_fetched = board.state_F[first + board.active_N[i]] == RESIDENT, False
            for k in range(fetched):
                is_fetched |= board.mark_E[k] == i
            rank += is_here
            if stage == 0 and is_here and rank <= kept:
                run(board, i, ON_GPU, IS_RESIDENT)
            elif (stage == 2 and not is_here and not is_fetched) or (stage == 3 and is_here and rank > kept):
                run(board, i, ON_CPU, CPU_SOONER)
        for k in range(fetched if stage == 1 else 0):
            run(board, board.mark_E[k], ON_GPU, FETCHED)
