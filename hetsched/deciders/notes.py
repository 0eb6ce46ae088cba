"""LayerNotes: what an executed layer came to, noted in one call: statistics, recalibration, pace.

What is noted is packed into a few words, and the kernel reads them by address: a layer's notes in Python would be some
forty operations on arrays, each of which finds cold caches in a model. Whoever notes imports numba.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from ..board import (
    EXPERT,
    EXPERTS,
    LANE,
    LAST_STEP,
    LAYER,
    N_DECODED,
    N_LAYERS,
    N_STEPS,
    N_TOKENS,
    ON_GPU,
    RUNS,
    S_CPU,
    S_DECISION,
    S_DECODE,
    S_DENSE,
    S_GPU,
    S_HOST,
    S_LINK,
    S_MAKESPAN,
    S_PREDICTED,
    S_STALL,
    UNDER_WAY,
    Arrays,
    Bytes,
)
from ..board import recalibration as recal
from ..board.contract import arrive, open_board
from ..board.recalibration import note_taken
from ..board.seconds import Seconds
from ..jit import compiled_and_kept, compiled_lean
from ..jit.c_call import CFunction
from ..policies.compiled import count_seen, stamp_of
from ..types import FloatArray, IntArray, Outcome, Phase
from . import pace
from .pace import Pace

account, outlasted_s = compiled_lean(pace.account), compiled_lean(pace.outlasted_s)

# Places in the words: of the layer its step, tokens, whether it decodes, whether the board has still the plan that was
# executed, and whether its demand has yet to be counted; then seconds as below, of which the last is the host's in all
# when this was last noted.
N_STEP, N_OF_TOKENS, IS_DECODING, ON_BOARD, UNCOUNTED = range(5)
ASKED = 5
DENSE, MAKESPAN, GPU, CPU, LINK, STALL, HOST, COPIED, COPIED_S, DECISION, PREDICTED, BESIDE, GAINED, HOST_BEFORE = (
    range(14)
)
WORDS = struct.Struct("5q13d")


class Noting(NamedTuple):
    """The kernel, with a board's three arrays."""

    note: Any


def _noting(stamp: int) -> Noting:
    @compiled_and_kept
    def note(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        seconds_4T: FloatArray,
        pace_P: FloatArray,
        asked_A: IntArray,
        given_S: FloatArray,
        took: FloatArray,
    ) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit
        board, s = open_board(bytes_B, ints_I, floats_R), given_S
        counts, sums_s = board.counts, board.sums_s
        if asked_A[N_STEP] != counts[LAST_STEP]:
            counts[LAST_STEP] = asked_A[N_STEP]
            counts[N_STEPS] += 1
            counts[N_TOKENS] += asked_A[N_OF_TOKENS]
            counts[N_DECODED] += asked_A[N_OF_TOKENS] * asked_A[IS_DECODING]
        counts[N_LAYERS] += 1
        if asked_A[IS_DECODING]:
            sums_s[S_DECODE] += s[DENSE] + s[HOST] + s[DECISION] + s[MAKESPAN]
        sums_s[S_DENSE] += s[DENSE]
        sums_s[S_DECISION] += s[DECISION]
        sums_s[S_MAKESPAN] += s[MAKESPAN]
        sums_s[S_PREDICTED] += s[PREDICTED]
        sums_s[S_GPU] += s[GPU]
        sums_s[S_CPU] += s[CPU]
        sums_s[S_LINK] += s[LINK]
        sums_s[S_STALL] += s[STALL]
        sums_s[S_HOST] += s[HOST]
        if asked_A[UNCOUNTED]:
            count_seen(board)
        if asked_A[ON_BOARD]:
            first = board.at[LAYER] * board.at[EXPERTS]
            for i in range(board.at[RUNS] if board.at[UNDER_WAY] else 0):
                if board.runs_4N[LANE, i] == ON_GPU:
                    arrive(board, first + board.runs_4N[EXPERT, i])
            took[recal.T_DENSE], took[recal.T_GPU], took[recal.T_CPU] = s[DENSE], s[GPU] - s[DENSE], s[CPU]
            took[recal.T_LINK], took[recal.T_COPIED], took[recal.T_COPIED_S] = s[LINK], s[COPIED], s[COPIED_S]
            took[recal.T_DECISION], took[recal.T_HOST] = s[DECISION], sums_s[S_HOST] - s[HOST_BEFORE]
            took[recal.T_MAKESPAN], took[recal.T_PREDICTED] = s[MAKESPAN], s[PREDICTED]
            s[HOST_BEFORE] = sums_s[S_HOST]
            note_taken(board, seconds_4T, took)
        late_s = outlasted_s(s[BESIDE], s[MAKESPAN], s[GPU] - s[DENSE] + s[STALL], s[CPU])
        account(pace_P, late_s, s[GAINED])

    return Noting(note)


noting = _noting(stamp_of("hetsched.board.recalibration", "hetsched.deciders.notes", "hetsched.deciders.pace"))


class LayerNotes:
    """Takes note of executed layers on one board; `pace` is told what looking ahead came to."""

    def __init__(self, arrays: Arrays, seconds: Seconds, pace: Pace) -> None:
        self._seconds, self._pace = seconds, pace
        words = np.zeros(ASKED + 14, np.int64)
        asked_A, given_S = words[:ASKED], words[ASKED:].view(np.float64)
        self._words = words.data
        self._given = asked_A, given_S, np.zeros(recal.TOOK)
        self._arrays, self._seconds_4T = arrays, seconds.table(1)
        self._note = CFunction((noting.note, self._arguments()))

    def add(
        self,
        outcome: Outcome,
        on_board: bool,
        uncounted: bool = False,
        beside_s: float = 0.0,
        gained_s: float = 0.0,
    ) -> None:
        """One layer.

        `on_board`: its plan is the one that the board still has; what it ran on the GPU has then arrived, and its
        predictions are compared with what it took. `uncounted`: the board's demand is to be counted as seen.
        `beside_s`: what looking ahead took, and `gained_s` what its copies are expected to save.
        """
        plan, dense_s, makespan_s, gpu_s, cpu_s, link_s, stall_s, host_s, copied, copied_s = outcome
        demand = plan.demand
        seconds_4T = self._seconds.table(demand.num_tokens)
        if seconds_4T is not self._seconds_4T:
            self._seconds_4T = seconds_4T
            self._note.give(0, self._arguments())
        WORDS.pack_into(
            self._words,
            0,
            demand.step,
            demand.num_tokens,
            demand.phase != Phase.PREFILL,
            on_board,
            uncounted,
            dense_s,
            makespan_s,
            gpu_s,
            cpu_s,
            link_s,
            stall_s,
            host_s,
            copied,
            copied_s,
            plan.decision_s,
            plan.predicted_s,
            beside_s,
            gained_s,
        )
        self._note.call()

    def _arguments(self) -> tuple[Any, ...]:
        return (*self._arrays, self._seconds_4T, self._pace.numbers_P, *self._given)
