"""A whole replay in one compiled call: the calls that decide in a model, on the timeline's, layer by layer.

The loop is compiled once; a policy's two calls are C functions to it.

What decides goes by `seconds_4T`, which are believed; what then happens takes those of `true_4T` and of the line.

Shapes: S steps, L layers, T tokens of the trace, U those of the steps, K top-k, E experts, N active experts, C counts
of a board.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import (
    ARRIVED,
    COPIES,
    COPY_S,
    COUNT,
    CPU_S,
    CPU_START_S,
    DENSE_S,
    EXPERT,
    EXPERTS,
    FETCHES,
    FLYING,
    GPU_CALL_S,
    GPU_S,
    LANE,
    LAST_STEP,
    LAYER,
    LAYERS,
    LINK_FREE_S,
    N_DECODED,
    N_LAYERS,
    N_STEPS,
    N_TOKENS,
    NEW,
    NEW_REQUEST,
    ON_GPU,
    PHASE,
    PREDICTED_S,
    RUNS,
    S_CPU,
    S_DECISION,
    S_DECODE,
    S_DENSE,
    S_GPU,
    S_HOST,
    S_LINK,
    S_MAKESPAN,
    S_OVERLAPPED,
    S_PREDICTED,
    S_STALL,
    STEP,
    TOKENS,
    WEIGHTED,
    Board,
    Bytes,
)
from ..board import recalibration as recal
from ..board.contract import FINE, arrive, note_arrivals, open_board
from ..board.demand import list_demand
from ..board.recalibration import end_step, note_taken, rewrite
from ..deciders import pace
from ..jit import compiled_and_kept, compiled_lean
from ..jit.c_call import called
from ..policies.compiled import count_seen, stamp_of
from ..types import BoolArray, Float32Array, FloatArray, IntArray
from . import line as lanes
from .line import Line, add, link_state, open_line, pass_s, sort_by_urgency, want

PREFILL = 0  # as types.Phase
SOURCES = (
    "hetsched.board.demand",
    "hetsched.board.recalibration",
    "hetsched.deciders.pace",
    "hetsched.jit.c_call",
    "hetsched.replay.line",
    "hetsched.replay.loop",
)
begin, account = compiled_lean(pace.begin), compiled_lean(pace.account)
outlasted_s = compiled_lean(pace.outlasted_s)


class Demanded(NamedTuple):
    """What is asked for: experts of every token, and the tokens that each step takes together, with their phase.

    `weights_ULK`: router weights of the tokens from begin_S[0] on; none where nobody wants them. `new_S`: the step is
    the first of a request.
    """

    experts_TLK: npt.NDArray[np.int16]
    weights_ULK: Float32Array
    begin_S: IntArray
    end_S: IntArray
    phase_S: Bytes
    new_S: BoolArray


@compiled_lean
def demand(board: Board, asked: Demanded, s: int, layer: int) -> None:
    """Put one layer's demand on the board, experts ascending."""
    begin, end, at = asked.begin_S[s], asked.end_S[s], board.at
    list_demand(board, asked.experts_TLK[begin:end, layer], board.at[EXPERTS])
    at[LAYER], at[TOKENS], at[PHASE] = layer, end - begin, asked.phase_S[s]
    at[NEW_REQUEST] = asked.new_S[s]
    at[WEIGHTED] = len(asked.weights_ULK) > 0
    if at[WEIGHTED]:
        weigh(board, asked, begin, end, layer)


@compiled_lean
def weigh(board: Board, asked: Demanded, begin: int, end: int, layer: int) -> None:
    """Put the layer's router weights on the board, summed over tokens."""
    board.weights_E[:] = 0.0
    for t in range(begin, end):
        for k in range(asked.experts_TLK.shape[2]):
            weight = asked.weights_ULK[t - asked.begin_S[0], layer, k]
            board.weights_E[asked.experts_TLK[t, layer, k]] += weight


@compiled_lean
def report(board: Board, line: Line) -> None:
    """Tell the board how the link stands."""
    believed_s = board.machine[COPY_S]
    free_s, flying, arrived = link_state(line, believed_s, board.flying_F, board.left_s_F, board.arrived_F)
    board.now[LINK_FREE_S], board.at[FLYING], board.at[ARRIVED] = free_s, flying, arrived


@compiled_lean
def submit(board: Board, line: Line) -> None:
    """The plan's copies join the line."""
    first = board.at[LAYER] * board.at[EXPERTS]
    if line.count_2[lanes.UNDER_WAY]:
        for i in range(board.at[RUNS]):
            if board.runs_4N[LANE, i] == ON_GPU:
                want(line, first + board.runs_4N[EXPERT, i])
    for i in range(board.at[FETCHES]):
        add(line, board.fetches_3N[NEW, i], True, 0.0)
    sort_by_urgency(line)


@compiled_lean
def finish(board: Board, line: Line, seconds_4T: FloatArray, gpu_N: IntArray, gpu_s_N: FloatArray) -> None:
    """Run the layer to its end, in the seconds that it really takes; what the GPU ran has arrived."""
    at, first, count, cpu_work_s = board.at, board.at[LAYER] * board.at[EXPERTS], 0, 0.0
    for i in range(at[RUNS]):
        tokens = board.runs_4N[COUNT, i]
        if board.runs_4N[LANE, i] == ON_GPU:
            gpu_N[count], gpu_s_N[count] = first + board.runs_4N[EXPERT, i], seconds_4T[GPU_S, tokens]
            count += 1
        else:
            cpu_work_s += seconds_4T[CPU_S, tokens]
    call_s = line.machine[GPU_CALL_S] if count else 0.0
    start_s = seconds_4T[CPU_START_S, at[TOKENS]] if count < at[RUNS] else 0.0
    lanes.end(line, gpu_N[:count], gpu_s_N[:count], call_s, cpu_work_s, start_s)
    for i in range(count):
        arrive(board, gpu_N[i])


@compiled_lean
def record(board: Board, line: Line, dense_s: float, decision_s: float, beside_s: float, host_s: float) -> None:
    """Add one layer's counts and times."""
    at, counts, sums_s, ends_7 = board.at, board.counts, board.sums_s, line.ends_7
    decoding = at[PHASE] != PREFILL
    if at[STEP] != counts[LAST_STEP]:
        counts[LAST_STEP] = at[STEP]
        counts[N_STEPS] += 1
        counts[N_TOKENS] += at[TOKENS]
        counts[N_DECODED] += at[TOKENS] * decoding
    counts[N_LAYERS] += 1
    if decoding:
        sums_s[S_DECODE] += dense_s + host_s + decision_s + ends_7[lanes.MAKESPAN]
    sums_s[S_DENSE] += dense_s
    sums_s[S_HOST] += host_s
    sums_s[S_DECISION] += decision_s
    sums_s[S_OVERLAPPED] += beside_s
    sums_s[S_MAKESPAN] += ends_7[lanes.MAKESPAN]
    sums_s[S_PREDICTED] += board.now[PREDICTED_S]
    sums_s[S_GPU] += dense_s + ends_7[lanes.GPU]
    sums_s[S_CPU] += ends_7[lanes.CPU]
    sums_s[S_LINK] += ends_7[lanes.LINK]
    sums_s[S_STALL] += ends_7[lanes.STALL]


@compiled_lean
def take_note(board: Board, line: Line, seconds_4T: FloatArray, took: FloatArray) -> None:
    """Put what the layer took beside what was predicted; `took` has what was charged already."""
    ends_7, dense_s = line.ends_7, took[recal.T_DENSE]
    took[recal.T_GPU] = (dense_s + ends_7[lanes.GPU]) - dense_s  # as whoever is told the lane's sum alone
    took[recal.T_CPU], took[recal.T_LINK] = ends_7[lanes.CPU], ends_7[lanes.LINK]
    took[recal.T_COPIED], took[recal.T_COPIED_S] = ends_7[lanes.COPIED], ends_7[lanes.COPIED_S]
    took[recal.T_MAKESPAN], took[recal.T_PREDICTED] = ends_7[lanes.MAKESPAN], board.now[PREDICTED_S]
    note_taken(board, seconds_4T, took)


@compiled_lean
def note_pace(board: Board, line: Line, pace_P: FloatArray, looking_s: float) -> None:
    """What looking ahead added to the layer, and what its copies are expected to save."""
    ends_7 = line.ends_7
    late_s = outlasted_s(looking_s, ends_7[lanes.MAKESPAN], ends_7[lanes.GPU] + ends_7[lanes.STALL], ends_7[lanes.CPU])
    account(pace_P, late_s, board.gain_s_W[: board.at[COPIES]].sum())


def _looping(stamp: int) -> Callable[..., int]:
    @compiled_and_kept
    def replay(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        step: tuple[int, int],
        ahead: tuple[int, int],
        seconds_4T: FloatArray,
        plain_4T: FloatArray,
        plain: FloatArray,
        learning: bool,
        true_4T: FloatArray,
        line_arrays: tuple[Bytes, IntArray, FloatArray],
        experts_TLK: npt.NDArray[np.int16],
        weights_ULK: Float32Array,
        begin_S: IntArray,
        end_S: IntArray,
        phase_S: Bytes,
        new_S: BoolArray,
        charge_3: FloatArray,
        pace_P: FloatArray,
        step_s_S: FloatArray,
        counts_SC: IntArray,
    ) -> int:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit
        board = open_board(bytes_B, ints_I, floats_R)
        line = open_line(line_arrays[0], line_arrays[1], line_arrays[2])
        asked = Demanded(experts_TLK, weights_ULK, begin_S, end_S, phase_S, new_S)
        decision_s, beside_s, host_s = charge_3
        took = np.zeros(recal.TOOK)
        took[recal.T_DECISION], took[recal.T_HOST] = decision_s, host_s
        gpu_N, gpu_s_N = np.empty(board.at[EXPERTS], np.int64), np.empty(board.at[EXPERTS])
        for s in range(len(begin_S)):
            if end_step(board, learning):
                rewrite(board, plain_4T, plain, seconds_4T)
            begun_s = line.time_5[lanes.NOW_S]
            board.at[STEP] += 1
            looking = begin(pace_P, phase_S[s] == PREFILL)
            looking_s = beside_s if looking else 0.0
            for layer in range(board.at[LAYERS]):
                demand(board, asked, s, layer)
                dense_s = true_4T[DENSE_S, board.at[TOKENS]]
                pass_s(line, dense_s + host_s)
                report(board, line)
                wrong: int = called(step[0], step[1])
                if wrong != FINE:
                    return wrong
                pass_s(line, decision_s)
                submit(board, line)
                report(board, line)
                if looking and ahead[0]:
                    wrong = called(ahead[0], ahead[1])
                    if wrong != FINE:
                        return wrong
                else:
                    note_arrivals(board)
                    count_seen(board)
                line.time_5[lanes.HOST_S] = looking_s
                for i in range(board.at[COPIES]):
                    add(line, board.copies_3W[NEW, i], False, looking_s)
                finish(board, line, true_4T, gpu_N, gpu_s_N)
                record(board, line, dense_s, decision_s, looking_s, host_s)
                note_pace(board, line, pace_P, looking_s)
                took[recal.T_DENSE] = dense_s
                take_note(board, line, seconds_4T, took)
            step_s_S[s] = line.time_5[lanes.NOW_S] - begun_s
            counts_SC[s] = board.counts
        return FINE

    return replay


replay = _looping(stamp_of(*SOURCES))
