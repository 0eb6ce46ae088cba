"""pose.py's work on a board: a layer's dispatch problem from demand and residency, and the decision from its answer.

Shapes: N active experts of the layer, V places of victims, L layers, E experts, F all experts flat.
"""

from __future__ import annotations

import numpy as np

from ..board import (
    ACTIVE,
    COPY_S,
    COPYING,
    CPU_S,
    CPU_START_S,
    EXPERTS,
    FLYING,
    FREE,
    FREE_SLOT,
    GPU_CALL_S,
    GPU_S,
    LAYER,
    LINK_FREE_S,
    ON_CPU,
    ON_GPU,
    PLACES,
    PREDICTED_S,
    PROBLEM_CPU_S,
    PROBLEM_LINK_S,
    RESIDENT,
    SLOTS,
    STATUS,
    TOKENS,
    Board,
)
from ..board.rows import BEATS_CPU, CPU_SOONER, FETCHED, IN_FLIGHT, IS_RESIDENT, fetch, run
from ..dispatch.answers import OPTIMAL
from ..dispatch.judge import gpu_order
from ..jit import compiled_lean
from ..types import FloatArray


@compiled_lean
def settle(board: Board, seconds_4T: FloatArray, most_gain_s: float) -> bool:
    """The optimal decision for one token where no fetch can be part of one and nothing is in flight; else False.

    Without fetches the only choice is how many residents leave the GPU for the CPU. k fetches end no earlier than
    link_free + k copies + one computation, and gain at most k * `most_gain_s` (no fetch's utility less its price
    exceeds that). The difference is linear in k, so k = 1 decides unless each further fetch pays for its own copy.
    """
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    gpu_s, cpu_s, start_s = seconds_4T[GPU_S, 1], seconds_4T[CPU_S, 1], seconds_4T[CPU_START_S, 1]
    here = 0
    for i in range(at[ACTIVE]):
        state = board.state_F[first + board.active_N[i]]
        if state == COPYING:
            return False
        here += state == RESIDENT
    misses, moved = at[ACTIVE] - here, 0
    gpu_end_s = board.machine[GPU_CALL_S] + here * gpu_s if here else 0.0
    makespan_s = max(gpu_end_s, start_s + misses * cpu_s) if misses else gpu_end_s
    while moved < here:  # the GPU's end falls and the CPU's rises: the first that is no better ends it
        gpu_end_s = gpu_end_s - gpu_s if moved + 1 < here else 0.0
        less_s = max(gpu_end_s, start_s + (misses + moved + 1) * cpu_s)
        if less_s >= makespan_s:
            break
        makespan_s, moved = less_s, moved + 1
    if misses and at[SLOTS]:
        copy_s = board.machine[COPY_S]
        if most_gain_s > copy_s or board.now[LINK_FREE_S] + copy_s + gpu_s - most_gain_s < makespan_s:
            return False
    _settled(board, here - moved)
    board.now[PREDICTED_S] = makespan_s
    at[STATUS] = OPTIMAL
    return True


@compiled_lean
def _settled(board: Board, kept: int) -> None:
    """The first `kept` residents on the GPU, what is missing on the CPU, and the other residents after it."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    for stage in range(3):
        rank = 0
        for i in range(at[ACTIVE]):
            is_here = board.state_F[first + board.active_N[i]] == RESIDENT
            rank += is_here
            if stage == 0 and is_here and rank <= kept:
                run(board, i, ON_GPU, IS_RESIDENT)
            elif (stage == 1 and not is_here) or (stage == 2 and is_here and rank > kept):
                run(board, i, ON_CPU, CPU_SOONER)


@compiled_lean
def pose(board: Board, seconds_4T: FloatArray, utility_F: FloatArray, link_price_s: float) -> None:
    """The layer's dispatch problem, into `packed_P`: seconds, and prices from `utility_F` (seconds saved).

    Each fetch pays `link_price_s` besides its victim's utility: what the copy engine would else have gained.
    """
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
    free = min(at[FREE], missing)
    for v in range(free):
        board.victims_N[v], packed_P[5 * size + v] = FREE_SLOT, 0.0
    at[PLACES] = _cheapest(board, utility_F, free, missing)
    for v in range(at[PLACES]):
        packed_P[5 * size + v] += link_price_s
    board.now[PROBLEM_LINK_S], board.now[PROBLEM_CPU_S] = link_free_s, seconds_4T[CPU_START_S, at[TOKENS]]


@compiled_lean
def _cheapest(board: Board, utility_F: FloatArray, free: int, wanted: int) -> int:
    """Places beyond the free ones: residents not active here by ascending (utility, number); how many in all."""
    first, experts, size = board.at[LAYER] * board.at[EXPERTS], board.at[EXPERTS], board.at[ACTIVE]
    price_V, found = board.packed_P[5 * size : 6 * size], free
    if wanted == free:
        return found
    board.mark_E[:] = 0
    for i in range(size):
        board.mark_E[board.active_N[i]] = 1
    for f in range(len(utility_F)):
        if board.state_F[f] != RESIDENT or (found == wanted and utility_F[f] >= price_V[found - 1]):
            continue
        if first <= f < first + experts and board.mark_E[f - first]:
            continue
        place = found if found < wanted else found - 1
        while place > free and price_V[place - 1] > utility_F[f]:
            price_V[place], board.victims_N[place] = price_V[place - 1], board.victims_N[place - 1]
            place -= 1
        price_V[place], board.victims_N[place] = utility_F[f], f
        found = min(found + 1, wanted)
    return found


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
