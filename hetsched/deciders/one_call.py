"""OneCall: a layer's demand and link to the board, a policy's kernels, and the rows back, in one call of a C function.

What is told is packed into a few words beside the board, which a kernel unpacks (one_call_kernels.py says which): the
same in Python would be a dozen operations on arrays, each of which finds cold caches in a model.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np

from ..board import EXPERTS, MOST_COPIES, Arrays
from ..board import open_board as sections
from ..board.seconds import Seconds
from ..dispatch.answers import ANSWERS
from ..jit.c_call import CFunction
from ..policies.compiled import CompiledPolicy
from ..types import Demand, ExpertId, Fetch, FloatArray, IntArray, LinkState, Plan, RoutedDemand
from .one_call_kernels import COPIED, HEAD, PLANNED, ends
from .views import ToldPlan, Views

NOBODY: list[int] = []
HEAD_WORDS, CHOSEN = struct.Struct("9q2d3q"), struct.Struct("qd")
TOLD_LINK, TOLD_LINK_AT = struct.Struct("2q8xd"), 8 * 6  # of the words copies under way and arrived, and seconds


class OneCall:
    """A compiled policy's two calls on one board, told and read in the same call."""

    def __init__(self, calls: CompiledPolicy, arrays: Arrays, seconds: Seconds, views: Views) -> None:
        self._calls, self._arrays, self._seconds = calls, arrays, seconds
        self._board = board = sections(*arrays)
        flat, experts = len(board.state_F), int(board.at[EXPERTS])
        self._experts, self._views = experts, views
        self._words, told = _words(HEAD + 2 * experts + 3 * flat)
        self._planned, planned = _words(PLANNED + 6 * experts)
        self._copied, copied = _words(COPIED + 3 * MOST_COPIES)
        self._seconds_4T = seconds.table(1)
        self._asked: Demand | None = None  # whose words these are
        step, ahead = self._arguments()
        self._step = CFunction((ends.tell, (*arrays, *told)), (calls.step, step), (ends.plan, (*arrays, *planned)))
        self._ahead = CFunction(
            (ends.tell_link, (*arrays, *told)), (calls.ahead, ahead), (ends.copies, (*arrays, *copied))
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

    def copies(self) -> tuple[list[Fetch], float]:
        """The copies that were chosen ahead, and the seconds that they are expected to save."""
        count, gained_s = CHOSEN.unpack_from(self._copied)
        if not count:
            return [], gained_s
        return self._views.copies_of(_lists(3 * count, 0).unpack_from(self._copied, 8 * COPIED)), gained_s

    def _tell(self, demand: Demand, link: LinkState) -> None:
        seconds_4T = self._seconds.table(demand.num_tokens)
        if seconds_4T is not self._seconds_4T:
            self._decide_by(seconds_4T)
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
            flying = [self._flat(expert) for expert, _ in in_flight]
            whole = *active, *tokens, *flying, *[self._flat(expert) for expert in arrived]
            left = [left_s for _, left_s in in_flight]
            _lists(len(whole), len(flying)).pack_into(self._words, 8 * HEAD, *whole, *left)

    def _decide_by(self, seconds_4T: FloatArray) -> None:
        self._seconds_4T = seconds_4T
        step, ahead = self._arguments()
        self._step.give(1, step)
        self._ahead.give(1, ahead)

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
