"""Kernels on both sides of a policy's: what is told is put on the board, and what was decided is listed.

Words told: the layer, its tokens, phase, step, active experts, whether a request begins, copies under way and arrived,
whether the demand holds router weights; seconds until the link is free, tokens that are expected to stay; the address
of a router's ids (0: experts are listed), how many each token has, and from which one on there is no expert; then
active experts, their tokens, copies under way and arrived, flat, and the seconds left to those under way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import carray

from ..board import (
    ACTIVE,
    ARRIVED,
    CAUSE,
    COPIES,
    EVICTS,
    EXPERT,
    FETCHES,
    FLYING,
    KEPT,
    LANE,
    LAYER,
    LINK_FREE_S,
    NEW_REQUEST,
    ON_GPU,
    PHASE,
    PREDICTED_S,
    RUNS,
    STATUS,
    STEP,
    TOKENS,
    WEIGHTED,
    Board,
    Bytes,
)
from ..board.contract import open_board
from ..board.demand import list_demand
from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..jit.by_address import words_at
from ..types import FloatArray, IntArray

HEAD, ROUTED = 14, 11  # words before the lists, and that of the address
PLANNED, COPIED = 6, 2  # words before a plan's lists, and before a list of copies


@compiled_lean
def put_link(board: Board, words: IntArray, seconds: FloatArray) -> None:
    """The link's words; `seconds` are the same words as floats."""
    active, flying, arrived = words[4], words[6], words[7]
    board.at[FLYING], board.at[ARRIVED], board.now[LINK_FREE_S] = flying, arrived, seconds[9]
    first = HEAD + 2 * active
    for i in range(flying):
        board.flying_F[i], board.left_s_F[i] = words[first + i], seconds[first + flying + arrived + i]
    for i in range(arrived):
        board.arrived_F[i] = words[first + flying + i]


@compiled_lean
def put_demand(board: Board, words: IntArray, seconds: FloatArray) -> None:
    """The demand's, but for a router's ids."""
    at, active = board.at, words[4]
    at[LAYER], at[TOKENS], at[PHASE], at[STEP], at[ACTIVE] = words[0], words[1], words[2], words[3], active
    at[NEW_REQUEST], at[WEIGHTED], board.now[KEPT] = words[5], words[8], seconds[10]
    for i in range(active):
        board.active_N[i], board.tokens_N[i] = words[HEAD + i], words[HEAD + active + i]


@compiled_lean
def list_plan(board: Board, words: IntArray, seconds: FloatArray) -> None:
    """The plan: how many are active, and on the GPU, fetches, evictions, the solver's answer, the makespan; then the
    demand's lists, who runs on the GPU and who on the CPU, and of all runs as in Views.runs."""
    at, active, on_gpu = board.at, board.at[ACTIVE], 0
    words[0], words[2], words[3], words[4], seconds[5] = (
        active,
        at[FETCHES],
        at[EVICTS],
        at[STATUS],
        board.now[PREDICTED_S],
    )
    for i in range(active):
        words[PLANNED + i], words[PLANNED + active + i] = board.active_N[i], board.tokens_N[i]
    lanes, first, runs = PLANNED + 2 * active, PLANNED + 3 * active, min(at[RUNS], active)
    for i in range(runs):
        on_gpu += board.runs_4N[LANE, i] == ON_GPU
    words[1], next_gpu, next_cpu = on_gpu, lanes, lanes + on_gpu
    for i in range(runs):
        at_first, at_last = 0, at[ACTIVE] - 1
        while at_first < at_last:
            middle = (at_first + at_last) >> 1
            if board.active_N[middle] < board.runs_4N[EXPERT, i]:
                at_first = middle + 1
            else:
                at_last = middle
        words[first + i] = at_first
        words[first + active + i], words[first + 2 * active + i] = board.runs_4N[LANE, i], board.runs_4N[CAUSE, i]
        if board.runs_4N[LANE, i] == ON_GPU:
            words[next_gpu] = at_first
            next_gpu += 1
        else:
            words[next_cpu] = at_first
            next_cpu += 1


@compiled_lean
def list_copies(board: Board, words: IntArray, seconds: FloatArray) -> None:
    """How many copies were chosen, what they are expected to save, and of each the expert, its victim, and why."""
    words[0], seconds[1] = board.at[COPIES], 0.0
    for i in range(words[0]):
        seconds[1] += board.gain_s_W[i]
        for row in range(3):
            words[COPIED + 3 * i + row] = board.copies_3W[row, i]


SOURCES = (
    "hetsched.board",
    "hetsched.board.contract",
    "hetsched.board.demand",
    "hetsched.deciders.one_call_kernels",
    "hetsched.jit.by_address",
)


class Ends(NamedTuple):
    """What comes before and after a policy's kernels, each with the board's three arrays."""

    tell: Any
    tell_link: Any
    plan: Any
    copies: Any


def _ends(stamp: int) -> Ends:
    @compiled_and_kept
    def tell(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, words: IntArray, seconds: FloatArray) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit
        board = open_board(bytes_B, ints_I, floats_R)
        put_demand(board, words, seconds)
        if words[ROUTED]:
            list_demand(board, carray(words_at(words[ROUTED]), (words[1], words[ROUTED + 1])), words[ROUTED + 2])
        put_link(board, words, seconds)

    @compiled_and_kept
    def tell_link(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, words: IntArray, seconds: FloatArray) -> None:
        assert stamp >= 0
        put_link(open_board(bytes_B, ints_I, floats_R), words, seconds)

    @compiled_and_kept
    def decided(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, words: IntArray, seconds: FloatArray) -> None:
        assert stamp >= 0
        list_plan(open_board(bytes_B, ints_I, floats_R), words, seconds)

    @compiled_and_kept
    def chosen(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, words: IntArray, seconds: FloatArray) -> None:
        assert stamp >= 0
        list_copies(open_board(bytes_B, ints_I, floats_R), words, seconds)

    return Ends(tell, tell_link, decided, chosen)


ends = _ends(source_stamp(*SOURCES))
