"""OneCall: a layer's demand and link to the board, a policy's kernels, and the rows back, in one call of a C function.

What is told is packed into a few words beside the board, which a kernel unpacks: the same in Python would be a dozen
operations on arrays, each of which finds cold caches in a model.

Words told: the layer, its tokens, phase, step, active experts, whether a request begins, copies under way and arrived,
whether the demand holds router weights; seconds until the link is free, tokens that are expected to stay; the address
of a router's ids (0: experts are listed), how many each token has, and from which one on there is no expert; then
active experts, their tokens, copies under way and arrived, flat, and the seconds left to those under way.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ..board import (
    ACTIVE,
    ARRIVED,
    CAUSE,
    COPIES,
    EVICTS,
    EXPERT,
    EXPERTS,
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
    Arrays,
    Board,
    Bytes,
)
from ..board import open_board as sections
from ..board.contract import open_board
from ..board.demand import list_demand
from ..board.seconds import Seconds
from ..dispatch.answers import ANSWERS
from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..jit.by_address import words_at
from ..jit.c_call import CFunction
from ..policies.compiled import CompiledPolicy
from ..types import Demand, ExpertId, FloatArray, IntArray, LinkState, Plan, RoutedDemand
from .views import ToldPlan, Views

HEAD, ROUTED = 14, 11
PLANNED = 6
NOBODY: list[int] = []
HEAD_WORDS, COPIED = struct.Struct("9q2d3q"), struct.Struct("qd")
TOLD_LINK, TOLD_LINK_AT = struct.Struct("2q8xd"), 8 * 6  # of the words copies under way and arrived, and seconds


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
def sum_copies(board: Board, words: IntArray, seconds: FloatArray) -> None:
    """How many copies were chosen, and what they are expected to save."""
    words[0], seconds[1] = board.at[COPIES], 0.0
    for i in range(words[0]):
        seconds[1] += board.gain_s_W[i]


SOURCES = (
    "hetsched.board",
    "hetsched.board.contract",
    "hetsched.board.demand",
    "hetsched.deciders.one_call",
    "hetsched.jit.by_address",
)


class Ends(NamedTuple):
    """What comes before and after a policy's kernels, each with the board's three arrays."""

    tell: Any
    tell_link: Any
    list: Any
    sum: Any


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
    def listed(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, words: IntArray, seconds: FloatArray) -> None:
        assert stamp >= 0
        list_plan(open_board(bytes_B, ints_I, floats_R), words, seconds)

    @compiled_and_kept
    def summed(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, words: IntArray, seconds: FloatArray) -> None:
        assert stamp >= 0
        sum_copies(open_board(bytes_B, ints_I, floats_R), words, seconds)

    return Ends(tell, tell_link, listed, summed)


ends = _ends(source_stamp(*SOURCES))


class OneCall:
    """A compiled policy's two calls on one board, told and read in the same call."""

    def __init__(self, calls: CompiledPolicy, arrays: Arrays, seconds: Seconds, views: Views) -> None:
        self._calls, self._arrays, self._seconds = calls, arrays, seconds
        self._board = board = sections(*arrays)
        flat, experts = len(board.state_F), int(board.at[EXPERTS])
        self._experts, self._views = experts, views
        self._words, told = _words(HEAD + 2 * experts + 3 * flat)
        self._planned, planned = _words(PLANNED + 6 * experts)
        self._copied, copied = _words(2)
        self._seconds_4T = seconds.table(1)
        self._asked: Demand | None = None  # whose words these are
        step, ahead = self._arguments()
        self._step = CFunction((ends.tell, (*arrays, *told)), (calls.step, step), (ends.list, (*arrays, *planned)))
        self._ahead = CFunction(
            (ends.tell_link, (*arrays, *told)), (calls.ahead, ahead), (ends.sum, (*arrays, *copied))
        )

    def step(self, demand: Demand, link: LinkState) -> int:
        """Decide a layer: what the policy's step says."""
        self._tell(demand, link)
        return self._step.call()

    def ahead(self, demand: Demand, link: LinkState) -> int:
        """Learn that layer's demand and choose copies: what the policy's `ahead` says."""
        if demand is self._asked and not (link.arrived or link.in_flight):  # all but the link has been told
            TOLD_LINK.pack_into(self._words, TOLD_LINK_AT, 0, 0, link.free_s)
        else:
            self._tell(demand, link)
        return self._ahead.call()

    def plan(self, demand: Demand) -> Plan:
        """What was decided on the demand that was told last."""
        views, routed = self._views, demand if type(demand) is RoutedDemand else None
        active = len(demand.active) if routed is None else min(routed.num_tokens * routed.top_k, self._experts)
        told = _plan_form(active).unpack_from(self._planned)
        if told[0] != active:
            active = told[0]
            told = _plan_form(active).unpack_from(self._planned)
        tokens_at, lanes_at, runs_at = PLANNED + active, PLANNED + 2 * active, PLANNED + 3 * active
        if routed is not None:
            routed.active, routed.tokens = [*told[PLANNED:tokens_at]], [*told[tokens_at:lanes_at]]
        cpu_at = lanes_at + told[1]
        lanes = told[lanes_at:cpu_at], told[cpu_at:runs_at]
        fetches = views.fetches() if told[2] else ()
        evicts = views.evicts() if told[3] else ()
        return ToldPlan(views, demand, told[runs_at:], fetches, evicts, told[5], ANSWERS[told[4]], lanes)

    def copies(self) -> tuple[int, float]:
        """How many copies were chosen ahead, and the seconds that they are expected to save."""
        found: tuple[int, float] = COPIED.unpack_from(self._copied)
        return found

    def _tell(self, demand: Demand, link: LinkState) -> None:
        seconds_4T = self._seconds.table(demand.num_tokens)
        if seconds_4T is not self._seconds_4T:
            self._seconds_4T = seconds_4T
            step, ahead = self._arguments()
            self._step.give(1, step)
            self._ahead.give(1, ahead)
        self._asked = demand
        active, tokens, kept, weighted, address, top_k, here = NOBODY, NOBODY, 0.0, False, 0, 0, 0
        if type(demand) is RoutedDemand:
            address, top_k, here = demand.address, demand.top_k, demand.here
        else:
            active, tokens, weighted = demand.active, demand.tokens, demand.weights_E is not None
            if demand.kept_N is not None:
                kept, self._board.kept_N[: len(active)] = demand.num_kept, demand.kept_N
            if weighted:
                self._board.weights_E[:] = demand.weights_E
        free_s, arrived, in_flight = link
        HEAD_WORDS.pack_into(
            self._words,
            0,
            demand.layer,
            demand.num_tokens,
            demand.phase,
            demand.step,
            len(active),
            demand.new_request,
            len(in_flight),
            len(arrived),
            weighted,
            free_s,
            kept,
            address,
            top_k,
            here,
        )
        if active or arrived or in_flight:
            flying, noted = [self._flat(expert) for expert, _ in in_flight], [self._flat(expert) for expert in arrived]
            whole = *active, *tokens, *flying, *noted
            _lists(len(whole), len(flying)).pack_into(
                self._words, 8 * HEAD, *whole, *[left_s for _, left_s in in_flight]
            )

    def _flat(self, expert: ExpertId) -> int:
        layer, e = expert
        return layer * self._experts + e

    def _arguments(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        kernels = self._calls.kernels
        given = (*self._arrays, self._seconds_4T, kernels.own)
        return given, (*given, kernels.known, True, True)


@cache
def _lists(whole: int, seconds: int) -> struct.Struct:
    return struct.Struct(f"{whole}q{seconds}d")


@cache
def _plan_form(active: int) -> struct.Struct:
    return struct.Struct(f"5qd{6 * active}q")


def _words(count: int) -> tuple[memoryview, tuple[IntArray, FloatArray]]:
    """So many words: as bytes, and as whole numbers or seconds, whichever each is."""
    words = np.zeros(count, np.int64)
    return words.data, (words, words.view(np.float64))
