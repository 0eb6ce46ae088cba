"""Recalibration: what was predicted beside what was measured, and the factors on the tables that follow from it.

A prediction is of busy seconds of the very calls that were made, never of a makespan, and it is a span: copies and the
CPU lane slow each other by up to their profile's slowdowns, so that what lies between "alone" and "beside all that was
copied" is as predicted. After each step the factor of a class moves towards the median of what the last three steps
said of it: one odd step moves nothing, a lasting change is believed from its second step on. What the tables hold
follows once it is off by more than SEEN, and it is the true factor that is estimated, not an increment, so that a late
table cannot make it swing. A lane that did nothing teaches nothing; whether it is time to use one in order to learn is
for a policy to say (`is_unknown`).

Shapes: R rows and C columns of a watch (board/__init__.py), T numbers of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..types import FloatArray, IntArray
from . import (
    CHUNK_S,
    CHUNKS,
    COPY_S,
    CORRECTED,
    COUNT,
    CPU_CALL_S,
    CPU_S,
    CPU_SLOWDOWN,
    CPU_START_S,
    DENSE_S,
    ESTIMATE,
    FACTOR,
    GPU_CALL_S,
    GPU_S,
    LANE,
    LAST,
    LAST_BUT_ONE,
    LEAST_S,
    LINK_SLOWDOWN,
    MOST_S,
    OF_COPY,
    OF_CPU,
    OF_DECISION,
    OF_DENSE,
    OF_GPU,
    OF_HOST,
    OF_LAYERS,
    ON_GPU,
    RUNS,
    STEPS_SEEN,
    STEPS_UNSEEN,
    SUM_ERROR,
    SUM_MEASURED_S,
    SUM_PREDICTED_S,
    TOKENS,
    TOOK_S,
    WATCHED,
    Board,
    Bytes,
)
from .contract import open_board

BOUND = 100.0  # a profile that is off by 10, on a machine that then changes by 10
LATELY = 0.05  # of a layer, in what is expected of decisions and the host
RATE = 0.2  # of a step: a tenfold change is followed to within a twentieth in some 20 steps
SEEN = math.log(1.03)  # tables are made anew when a factor has moved by more
PROBE_STEPS, FIRST_PROBE_STEPS, FEW = 16, 3, 2  # a first step says little, the second decides
ROUNDING = 1e-6  # relative; less is no error
LOG_BOUND = math.log(BOUND)

# Places in `took`: a layer's busy seconds, of its copies how many have arrived and the link's seconds for these, what
# it took in all and what its plan expected.
T_DENSE, T_GPU, T_CPU, T_LINK, T_COPIED, T_COPIED_S, T_DECISION, T_HOST, T_MAKESPAN, T_PREDICTED = range(10)
TOOK = 10


@compiled_lean
def note_taken(board: Board, seconds_4T: FloatArray, took: FloatArray) -> None:
    """Add a layer, decided as the board's runs say, to the step under way."""
    at, machine, watch_RC = board.at, board.machine, board.watch_RC
    gpu_s, cpu_s, on_gpu = 0.0, 0.0, 0
    for i in range(at[RUNS]):
        if board.runs_4N[LANE, i] == ON_GPU:
            gpu_s += seconds_4T[GPU_S, board.runs_4N[COUNT, i]]
            on_gpu += 1
        else:
            cpu_s += seconds_4T[CPU_S, board.runs_4N[COUNT, i]]
    dense_s, start_s = seconds_4T[DENSE_S, at[TOKENS]], seconds_4T[CPU_START_S, at[TOKENS]]
    slow, copies_s = machine[CPU_SLOWDOWN], took[T_COPIED] * machine[COPY_S]
    if on_gpu:
        _add(watch_RC, OF_GPU, machine[GPU_CALL_S] + gpu_s, 0.0, took[T_GPU])
    if on_gpu < at[RUNS]:
        more_s = min(cpu_s * (slow - 1.0), took[T_LINK] * (1.0 - 1.0 / slow))
        _add(watch_RC, OF_CPU, start_s + cpu_s, more_s, took[T_CPU])
    _add(watch_RC, OF_COPY, copies_s, copies_s * (machine[LINK_SLOWDOWN] - 1.0), took[T_COPIED_S])
    _add(watch_RC, OF_DENSE, dense_s, 0.0, took[T_DENSE])
    _add(watch_RC, OF_LAYERS, dense_s + took[T_PREDICTED], 0.0, took[T_DENSE] + took[T_MAKESPAN])
    _expect(watch_RC, OF_DECISION, took[T_DECISION])
    _expect(watch_RC, OF_HOST, took[T_HOST])


@compiled_lean
def _add(watch_RC: FloatArray, c: int, least_s: float, more_s: float, took_s: float) -> None:
    """One prediction and its measurement; where either is missing, nothing."""
    if took_s > 0.0 and least_s > 0.0 and least_s < math.inf:
        watch_RC[LEAST_S, c] += least_s
        watch_RC[MOST_S, c] += least_s + more_s
        watch_RC[TOOK_S, c] += took_s


@compiled_lean
def _expect(watch_RC: FloatArray, c: int, took_s: float) -> None:
    """What no profile foresees is expected to take what it has taken of late."""
    _add(watch_RC, c, watch_RC[FACTOR, c], 0.0, took_s)
    if watch_RC[FACTOR, c] < 0.0:
        watch_RC[FACTOR, c] = took_s
    watch_RC[FACTOR, c] += LATELY * (took_s - watch_RC[FACTOR, c])


@compiled_lean
def end_step(board: Board, learning: bool) -> bool:
    """Count the step under way, learn from it, and begin another; whether factors of the tables have changed."""
    watch_RC, changed = board.watch_RC, False
    for c in range(WATCHED):
        least_s, took_s = watch_RC[LEAST_S, c], watch_RC[TOOK_S, c]
        watch_RC[STEPS_UNSEEN, c] += 1.0
        if took_s <= 0.0:
            continue
        watch_RC[SUM_PREDICTED_S, c] += least_s
        watch_RC[SUM_MEASURED_S, c] += took_s
        watch_RC[SUM_ERROR, c] += abs(took_s / least_s - 1.0)
        watch_RC[STEPS_SEEN, c] += 1.0
        if learning and c < CORRECTED:
            changed |= _correct(watch_RC, c)
        for row in (LEAST_S, MOST_S, TOOK_S, STEPS_UNSEEN):
            watch_RC[row, c] = 0.0
    return changed


@compiled_lean
def _correct(watch_RC: FloatArray, c: int) -> bool:
    """Move one class's estimate by what this step says; whether its factor changes."""
    took_s, applied = watch_RC[TOOK_S, c], math.log(watch_RC[FACTOR, c])
    error = math.log(took_s / min(max(took_s, watch_RC[LEAST_S, c]), watch_RC[MOST_S, c]))
    said = applied + error if abs(error) > ROUNDING else applied
    last, before = watch_RC[LAST, c], watch_RC[LAST_BUT_ONE, c]
    middle = max(min(said, last), min(max(said, last), before))
    watch_RC[LAST_BUT_ONE, c], watch_RC[LAST, c] = last, said
    rate = 1.0 - (1.0 - RATE) ** watch_RC[STEPS_UNSEEN, c]  # what was last seen long ago counts for less
    rate = max(rate, 1.0 / max(1.0, watch_RC[STEPS_SEEN, c] - 1.0))  # the profile itself counts as two steps
    moved = watch_RC[ESTIMATE, c] + rate * (middle - watch_RC[ESTIMATE, c])
    watch_RC[ESTIMATE, c] = estimate = min(max(moved, -LOG_BOUND), LOG_BOUND)
    if abs(estimate - applied) <= SEEN:
        return False
    watch_RC[FACTOR, c] = math.exp(estimate)
    return True


@compiled_lean
def is_unknown(board: Board, c: int) -> bool:
    """Whether it is worth something to know what a class takes now: nothing was measured for long, in this step either.

    A lane that is thought too slow to be used would else be thought so for ever. The first few times soon.
    """
    steps = FIRST_PROBE_STEPS if board.watch_RC[STEPS_SEEN, c] < FEW else PROBE_STEPS
    return bool(board.watch_RC[STEPS_UNSEEN, c] >= steps and board.watch_RC[TOOK_S, c] == 0.0)


@compiled_lean
def rewrite(board: Board, plain_4T: FloatArray, plain: FloatArray, seconds_4T: FloatArray) -> None:
    """Tables and `machine` with the factors as they are now, of those without any.

    The row CPU_START_S of `plain_4T` holds the round trip of the activations alone.
    """
    factor_C, machine = board.watch_RC[FACTOR], board.machine
    machine[GPU_CALL_S] = plain[GPU_CALL_S] * factor_C[OF_GPU]
    machine[CPU_CALL_S] = plain[CPU_CALL_S] * factor_C[OF_CPU]
    machine[COPY_S] = plain[COPY_S] * factor_C[OF_COPY]
    machine[CHUNK_S] = machine[COPY_S] / max(1.0, plain[CHUNKS])
    for n in range(seconds_4T.shape[1]):
        seconds_4T[GPU_S, n] = plain_4T[GPU_S, n] * factor_C[OF_GPU]
        seconds_4T[CPU_S, n] = plain_4T[CPU_S, n] * factor_C[OF_CPU]
        seconds_4T[DENSE_S, n] = plain_4T[DENSE_S, n] * factor_C[OF_DENSE]
        seconds_4T[CPU_START_S, n] = machine[CPU_CALL_S] + plain_4T[CPU_START_S, n] * factor_C[OF_COPY]


class Entries(NamedTuple):
    """What a scheduler calls, with the board's three arrays."""

    end_step: Callable[..., bool]


def _entries(stamp: int) -> Entries:
    @compiled_and_kept
    def ending(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, learning: bool) -> bool:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        return end_step(open_board(bytes_B, ints_I, floats_R), learning)

    return Entries(ending)


entries = _entries(source_stamp("hetsched.board", "hetsched.board.contract", "hetsched.board.recalibration"))
