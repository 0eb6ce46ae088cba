"""LayerRing: what a board says of decided and executed layers, kept as numbers in arrays that are there beforehand.

A layer is two calls of C functions, which copy rows; nothing is allocated, no text is made. Whoever makes one imports
numba.

Shapes: F all experts flat (layer * E + expert), N active experts of a layer.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from ..board import (
    ACTIVE,
    COPIES,
    EVICTS,
    EXPERT,
    EXPERTS,
    FETCHES,
    FLYING,
    LANE,
    LAYER,
    LAYERS,
    LINK_FREE_S,
    NEW,
    NEW_REQUEST,
    PHASE,
    RESIDENT,
    RUNS,
    S_DECISION,
    S_DENSE,
    S_HOST,
    S_HOST_INSIDE,
    S_MAKESPAN,
    S_OVERLAPPED,
    SLOTS,
    STATUS,
    STEP,
    TOKENS,
    VICTIM,
    Arrays,
    Board,
    Bytes,
)
from ..board.contract import open_board
from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..jit.c_call import CFunction
from ..types import FloatArray, IntArray, Outcome

DONE, DONE_S, AT, AT_S, COUNT = range(5)  # of `cursor`: words and seconds of whole layers, of the one under way
HEAD = (STEP, LAYER, PHASE, TOKENS, NEW_REQUEST, SLOTS, STATUS, ACTIVE, RUNS, FETCHES, EVICTS, FLYING)
SECONDS = struct.Struct("11d")  # of an executed layer: its outcome, its decision, what was predicted
EXECUTED = 12  # and what looking ahead took
RING_WORDS = 1 << 22  # some 60,000 layers of 8 experts, which need 60 words
HERE = 2  # added to a lane: the expert was there when its layer was decided
_PLACES = np.array(HEAD, np.int64)


class RawLayer(NamedTuple):
    """One layer's numbers as lists: `head` as in HEAD, `outcome` as the words of an executed layer."""

    head: list[int]
    active: list[int]
    tokens: list[int]
    runs_2: list[list[int]]
    fetches_3: list[list[int]]
    evicts: list[int]
    flying: list[int]
    copies_3: list[list[int]]
    begin_s: float
    free_s: float
    left_s: list[float]
    outcome: list[float]
    gain_s: list[float]


@compiled_lean
def write_words(board: Board, words_I: IntArray, i: int, places: IntArray) -> int:
    """Copy a decided layer's rows to words from `i` on; where they end."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    for place in places:
        words_I[i] = at[place]
        i += 1
    for n in range(at[ACTIVE]):
        words_I[i], words_I[i + at[ACTIVE]] = board.active_N[n], board.tokens_N[n]
        i += 1
    i += at[ACTIVE]
    for n in range(at[RUNS]):
        words_I[i] = board.runs_4N[EXPERT, n]
        is_here = board.state_F[first + words_I[i]] == RESIDENT
        words_I[i + at[RUNS]] = board.runs_4N[LANE, n] + HERE * is_here
        i += 1
    i += at[RUNS]
    for n in range(at[FETCHES]):
        words_I[i], words_I[i + at[FETCHES]] = board.fetches_3N[NEW, n], board.fetches_3N[VICTIM, n]
        words_I[i + 2 * at[FETCHES]] = board.slot_F[board.fetches_3N[NEW, n]]
        i += 1
    i += 2 * at[FETCHES]
    for n in range(at[EVICTS]):
        words_I[i] = board.evicts_N[n]
        i += 1
    for n in range(at[FLYING]):
        words_I[i] = board.flying_F[n]
        i += 1
    return i


@compiled_lean
def write_seconds(board: Board, seconds_R: FloatArray, s: int) -> int:
    """Copy when a decided layer begins, and how the link stands, to seconds from `s` on; where they end."""
    sums_s = board.sums_s
    host_s = sums_s[S_HOST] - sums_s[S_HOST_INSIDE]
    seconds_R[s] = sums_s[S_DENSE] + host_s + sums_s[S_DECISION] + sums_s[S_MAKESPAN]
    seconds_R[s + 1], seconds_R[s + 2] = board.now[LINK_FREE_S], sums_s[S_OVERLAPPED]
    s += 3
    for n in range(board.at[FLYING]):
        seconds_R[s] = board.left_s_F[n]
        s += 1
    return s


def _deciding(stamp: int) -> Any:
    @compiled_and_kept
    def decided(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        words_I: IntArray,
        seconds_R: FloatArray,
        cursor: IntArray,
        places: IntArray,
    ) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit
        board = open_board(bytes_B, ints_I, floats_R)
        cursor[AT] = write_words(board, words_I, cursor[DONE], places)
        cursor[AT_S] = write_seconds(board, seconds_R, cursor[DONE_S])

    return decided


def _executing(stamp: int) -> Any:
    @compiled_and_kept
    def executed(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        words_I: IntArray,
        seconds_R: FloatArray,
        cursor: IntArray,
        took_S: FloatArray,
    ) -> int:
        assert stamp >= 0
        board = open_board(bytes_B, ints_I, floats_R)
        i, s, copies = cursor[AT], cursor[AT_S], board.at[COPIES]
        words_I[i] = copies
        i += 1
        for n in range(copies):
            words_I[i], words_I[i + copies] = board.copies_3W[NEW, n], board.copies_3W[VICTIM, n]
            words_I[i + 2 * copies] = board.slot_F[board.copies_3W[NEW, n]]
            seconds_R[s + len(took_S) + n] = board.gain_s_W[n]
            i += 1
        before_s = seconds_R[cursor[DONE_S] + 2]
        for n in range(len(took_S) - 1):
            seconds_R[s + n] = took_S[n]
        seconds_R[s + len(took_S) - 1] = board.sums_s[S_OVERLAPPED] - before_s
        cursor[DONE], cursor[DONE_S] = i + 2 * copies, s + len(took_S) + copies
        cursor[COUNT] += 1
        most = 32 + 10 * board.at[EXPERTS] + 3 * board.at[LAYERS] * board.at[EXPERTS]
        return int(cursor[DONE] + most > len(words_I) or cursor[DONE_S] + most > len(seconds_R))

    return executed


_STAMP = source_stamp("hetsched.board", "hetsched.board.contract", "hetsched.runlog.ring")
decided, executed = _deciding(_STAMP), _executing(_STAMP)


class LayerRing:
    """Room for layers of one board: some `num_words` words and a quarter as many seconds, taken when made."""

    def __init__(self, arrays: Arrays, num_words: int = RING_WORDS) -> None:
        self.words_I, self.seconds_R = np.zeros(num_words, np.int64), np.zeros(num_words // 4 + num_words % 4)
        self.cursor = np.zeros(5, np.int64)
        took_S = np.zeros(EXECUTED)
        self._told = took_S.view(np.uint8).data
        kept = *arrays, self.words_I, self.seconds_R, self.cursor
        self.decided = CFunction((decided, (*kept, _PLACES)))  # a layer has been; one that never ended is forgotten
        self._executed = CFunction((executed, (*kept, took_S)))

    @property
    def count(self) -> int:
        """Whole layers in it."""
        return int(self.cursor[COUNT])

    @property
    def filled(self) -> float:
        """Share of its room that is taken."""
        return float(max(self.cursor[DONE] / len(self.words_I), self.cursor[DONE_S] / len(self.seconds_R)))

    def executed(self, outcome: Outcome) -> bool:
        """It has been executed; whether another might find no room."""
        plan = outcome[0]
        SECONDS.pack_into(self._told, 0, *outcome[1:], plan.decision_s, plan.predicted_s)
        return self._executed() != 0

    def taken(self) -> list[RawLayer]:
        """All whole layers, which are then no longer in it."""
        words = _Reader(self.words_I[: self.cursor[DONE]].tolist())
        seconds = _Reader(self.seconds_R[: self.cursor[DONE_S]].tolist())
        found = [_layer(words, seconds) for _ in range(self.count)]
        self.cursor[:] = 0
        return found


class _Reader:
    """A list from its beginning."""

    def __init__(self, values: list[Any]) -> None:
        self._values, self._at = values, 0

    def next(self, count: int) -> list[Any]:
        self._at += count
        return self._values[self._at - count : self._at]

    def rows(self, count: int, rows: int) -> list[list[Any]]:
        return [self.next(count) for _ in range(rows)]


def _layer(words: _Reader, seconds: _Reader) -> RawLayer:
    head = words.next(len(HEAD))
    active, runs, fetches, evicts, flying = head[7:]
    ints = words.next(active), words.next(active), words.rows(runs, 2), words.rows(fetches, 3)
    lists = *ints, words.next(evicts), words.next(flying)
    (copies,) = words.next(1)
    begin_s, free_s, _ = seconds.next(3)
    left_s, outcome = seconds.next(flying), seconds.next(EXECUTED)
    return RawLayer(head, *lists, words.rows(copies, 3), begin_s, free_s, left_s, outcome, seconds.next(copies))
