"""hetsched's own policy on a board: a layer's dispatch, what follows from it, and copies for an idle link.

Shapes: L layers, E experts, N active experts of the layer, W swaps at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..board import (
    ACTIVE,
    COPY_S,
    CPU_S,
    CPU_SLOWDOWN,
    DENSE_S,
    EXPERTS,
    FETCHES,
    FLYING,
    FREE,
    GPU_S,
    HAS_GPU,
    LANE,
    LAYER,
    LINK_FREE_S,
    OF_COPY,
    OF_CPU,
    OF_GPU,
    ON_CPU,
    PHASE,
    PREDICTED_S,
    RESIDENT,
    RUNS,
    SLOTS,
    TOKENS,
    Board,
)
from ..board.recalibration import is_unknown
from ..board.rows import SAVES, copy_ahead, misses_on_cpu
from ..cost.model import CostModel
from ..jit import compiled_lean
from ..types import FloatArray
from . import utility_kernels as swap
from .compiled import ASKS, DECIDED, PolicyKernels
from .pose_kernels import pose, to_rows
from .settle_kernels import settle
from .utility_kernels import UtilityState, choose_swaps

MOST_SWAPS = 4  # prefetches chosen at once
RECENT = 0.15  # how far one demand moves the forecast of the next towards certainty
RATE = 0.02  # of the averages that follow the run: link price, layer time
PREFILL = 0  # as types.Phase
NOW = 12  # numbers that choose_swaps is told

# Places in `numbers`. The weight of demand after the next visit, hysteresis in savings, backlog in layers, layers that
# learning one changes; averages: a layer's seconds, what copies have been gaining, the CPU lane's share of a layer; and
# what was left of the last layer.
LATER, HYSTERESIS, BACKLOG, REACH, LAYER_S, LINK_PRICE_S, CPU_SHARE, LEFT_S = range(8)


class Own(NamedTuple):
    """The policy's arrays.

    `numbers` as above; what utility_kernels.py keeps; the swaps and `now`, what they depend on; a forecaster's answers.
    """

    numbers: FloatArray
    known: UtilityState
    swaps_3W: FloatArray
    now: FloatArray
    next_LE: FloatArray
    demand_LE: FloatArray


def first_numbers(cost: CostModel, top_k: int, tuning: Sequence[float], reach: int) -> FloatArray:
    """`numbers` before the first step; `tuning`: weight of later demand, hysteresis, backlog."""
    numbers = np.zeros(8)
    numbers[[LATER, HYSTERESIS, BACKLOG]], numbers[REACH] = tuning, reach
    if cost.has_gpu:
        numbers[LAYER_S] = cost.dense_s(1) + top_k * cost.each_cpu_s((1,))[0]
    return numbers


@compiled_lean
def own_of(a: Any) -> Own:
    """The arrays by name."""
    known = UtilityState(a[1], a[2], a[3], a[4], a[5], a[6])
    return Own(a[0], known, a[7], a[8], a[9], a[10])


@compiled_lean
def saving_s(board: Board, seconds_4T: FloatArray) -> float:
    """What one hit saves: a miss need not run on the CPU."""
    return float(min(seconds_4T[CPU_S, 1], board.machine[COPY_S] + seconds_4T[GPU_S, 1]))


@compiled_lean
def plan(board: Board, seconds_4T: FloatArray, arrays: Any) -> int:
    """The layer's integer program, posed; or decided, where one token's is settled by counting, or to use every lane."""
    own = own_of(arrays)
    if not board.machine[HAS_GPU]:
        misses_on_cpu(board, seconds_4T)
        return DECIDED
    numbers = own.numbers
    if _is_probe(board):
        misses_on_cpu(board, seconds_4T)
        _follow(board, seconds_4T, numbers)
        return DECIDED
    utility_E, demand_E = own.known.utility_LE[board.at[LAYER]], own.demand_LE[board.at[LAYER]]
    ahead, hit_s = _tokens_ahead(board), saving_s(board, seconds_4T)
    for i in range(board.at[ACTIVE]):
        e = board.active_N[i]
        p = min(demand_E[e], 1.0)
        again = 1.0 - (1.0 - p - RECENT * (1.0 - p)) ** ahead
        utility_E[e] = hit_s * (1.0 + numbers[LATER]) * again
    utility_F, price_s = own.known.utility_LE.reshape(-1), numbers[LINK_PRICE_S] + _contention_s(board, numbers)
    if board.at[TOKENS] == 1 and settle(board, seconds_4T, utility_F, price_s):
        _follow(board, seconds_4T, numbers)
        return DECIDED
    pose(board, seconds_4T, utility_F, price_s)
    return ASKS


@compiled_lean
def answer(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """The decision from the solver's choice."""
    to_rows(board)
    _follow(board, seconds_4T, own_of(arrays).numbers)


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """The forecasts of this layer and some after it have changed."""
    own = own_of(arrays)
    first, stale_L = board.at[LAYER], own.known.stale_L
    stale_L[first : min(len(stale_L), first + int(own.numbers[REACH]) + 1)] = True


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """The best absent experts for the worst resident ones, as far as that pays and the link has time."""
    own = own_of(arrays)
    at, numbers = board.at, own.numbers
    backlog_s = board.now[LINK_FREE_S] if at[FLYING] == 0 else 0.0
    for j in range(at[FLYING]):
        backlog_s = max(backlog_s, board.left_s_F[j])
    limit_s = numbers[BACKLOG] * numbers[LAYER_S]
    if not at[SLOTS] or backlog_s > limit_s:
        return
    now = own.now
    now[swap.LAYER], now[swap.FREE], now[swap.TOKENS] = at[LAYER], at[FREE], _tokens_ahead(board)
    now[swap.BACKLOG], now[swap.LIMIT] = backlog_s, limit_s
    now[swap.LAYER_S], now[swap.LEFT] = numbers[LAYER_S], numbers[LEFT_S]
    hit_s, copy_s = saving_s(board, seconds_4T), board.machine[COPY_S]
    now[swap.SAVING], now[swap.LATER], now[swap.COPY] = hit_s, numbers[LATER], copy_s
    now[swap.WORTH] = numbers[HYSTERESIS] * hit_s + _contention_s(board, numbers)
    now[swap.DENSE] = seconds_4T[DENSE_S, 1]
    is_probe = is_unknown(board, OF_COPY) and not at[FLYING] and not at[FETCHES]
    if is_probe:  # as if a copy took nothing
        now[swap.COPY] = now[swap.WORTH] = 0.0
    layers, experts = own.next_LE.shape
    state_LE, active_N = board.state_F.reshape(layers, experts), board.active_N[: at[ACTIVE]]
    count = choose_swaps(own.known, own.next_LE, own.demand_LE, state_LE, active_N, now, own.swaps_3W)
    count = min(count, 1) if is_probe else count
    gained_s = 0.0
    for i in range(count):
        new, victim, gain_s = own.swaps_3W[:, i]
        copy_ahead(board, int(new), int(victim), gain_s, SAVES)
        gained_s += gain_s
    numbers[LINK_PRICE_S] += RATE * (gained_s / max(count, 1) - numbers[LINK_PRICE_S])


@compiled_lean
def _is_probe(board: Board) -> bool:
    """Whether a lane was not used for long, and this layer could use it: a few tokens' layer costs little."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    if at[PHASE] == PREFILL or not (is_unknown(board, OF_GPU) or is_unknown(board, OF_CPU)):
        return False
    here = 0
    for i in range(at[ACTIVE]):
        here += board.state_F[first + board.active_N[i]] == RESIDENT
    return bool((is_unknown(board, OF_GPU) and here > 0) or (is_unknown(board, OF_CPU) and here < at[ACTIVE]))


@compiled_lean
def _follow(board: Board, seconds_4T: FloatArray, numbers: FloatArray) -> None:
    """Averages over the run: a layer's time, and for how much of it the CPU lane works."""
    predicted_s, last = board.now[PREDICTED_S], board.at[RUNS] - 1
    numbers[LEFT_S] = predicted_s
    layer_s = seconds_4T[DENSE_S, board.at[TOKENS]] + predicted_s
    numbers[LAYER_S] += RATE * (layer_s - numbers[LAYER_S])
    share = predicted_s / layer_s if last >= 0 and board.runs_4N[LANE, last] == ON_CPU else 0.0
    numbers[CPU_SHARE] += RATE * (share - numbers[CPU_SHARE])


@compiled_lean
def _contention_s(board: Board, numbers: FloatArray) -> float:
    """What one copy costs the CPU lane beside it."""
    return float(board.machine[COPY_S] * numbers[CPU_SHARE] * (1.0 - 1.0 / board.machine[CPU_SLOWDOWN]))


@compiled_lean
def _tokens_ahead(board: Board) -> int:
    """Tokens in the steps to come: like steps follow each other, but after a prefill comes decoding."""
    return 1 if board.at[PHASE] == PREFILL else int(board.at[TOKENS])


KERNELS = PolicyKernels(
    "hetsched",
    ("hetsched.board.recalibration", "hetsched.policies.utility_steps", "hetsched.policies.utility_kernels"),
    plan,
    answer=answer,
    note=note,
    choose=choose,
)
