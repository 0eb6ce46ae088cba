"""Board: all that the kernels of one run share, as sections of three arrays.

The scheduler makes one; Residency and RunStats are views of its sections, and every kernel opens it anew: three arrays
cost a call less than thirty. Whoever wants to know where an expert is looks here, and nowhere else.

Shapes: L layers, E experts of a layer, F all experts flat (layer * E + expert), S slots that there may ever be (one for
each expert), N active experts of a layer (at most E), W copies chosen at once, P numbers of a dispatch problem (at most
6 * E).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..types import FloatArray, IntArray

Bytes = npt.NDArray[np.uint8]
Arrays = tuple[Bytes, IntArray, FloatArray]

MOST_COPIES = 16  # prefetches that may be chosen at once
ABSENT, COPYING, RESIDENT, NO_EXPERT = range(
    4
)  # of `state_F`; kernels take literal numbers, residency.State names them
ON_CPU, ON_GPU = range(2)
FREE_SLOT = -1  # in place of a victim

# Places in `at`. The shape; where the run is and what is asked; how many of each were decided; counts of the residency
# and of the link; what breaks the contract; what is known of the solver's answer; experts and places it decides on, its
# effort; whether the step is the first of a request, and whether the demand holds router weights.
LAYERS, EXPERTS, SLOTS = range(3)
LAYER, TOKENS, PHASE, STEP, ACTIVE = range(3, 8)
RUNS, FETCHES, EVICTS, COPIES = range(8, 12)
FREE, UNDER_WAY = range(12, 14)
FLYING, ARRIVED = range(14, 16)
WRONG, WRONG_AT = range(16, 18)
STATUS, PLACES, MAX_NODES, PROVE, LIMIT_NODES = range(18, 23)
NEW_REQUEST, WEIGHTED = range(23, 25)
AT = 25

# Places in `now`, seconds: until a demanded copy would start; the makespan expected; of the problem posed, when the
# link is free and what anything on the CPU costs once. And the tokens of the step that are expected to stay, 0: all.
LINK_FREE_S, PREDICTED_S, PROBLEM_LINK_S, PROBLEM_CPU_S, KEPT = range(5)
NOW = 8

EXPERT, COUNT, LANE, CAUSE = range(4)  # rows of `runs_4N`
NEW, VICTIM, WHY = range(3)  # rows of `fetches_3N` and `copies_3W`; flat, a victim of FREE_SLOT is none
GPU_S, CPU_S, DENSE_S, CPU_START_S = range(4)  # rows of `seconds_4T`, by number of tokens
COPY_S, CHUNK_S, CPU_SLOWDOWN, LINK_SLOWDOWN, HAS_GPU, GPU_CALL_S, CPU_CALL_S, CHUNKS = range(8)  # in `machine`
MACHINE = 8

# Places in `counts` and `sums_s`, as in stats.RunStats; `statuses` counts the numbers of solver_answers.
N_LAYERS, N_STEPS, N_TOKENS, N_DECODED, N_ACTIVE, N_HITS = range(6)
N_LATE, N_FETCHES, N_PREFETCHES, N_WASTED, N_EVICTIONS = range(6, 11)
LAST_STEP = 11
COUNTS = 12
S_DECODE, S_DENSE, S_DECISION, S_OVERLAPPED, S_MAKESPAN, S_PREDICTED = range(6)
S_GPU, S_CPU, S_LINK, S_STALL, S_HOST, S_HOST_INSIDE = range(6, 12)
SUMS = 12
STATUSES = 8

# Columns of `watch_RC`: of what seconds are predicted and measured. Of the first CORRECTED, predictions are corrected.
OF_GPU, OF_CPU, OF_COPY, OF_DENSE, OF_LAYERS, OF_DECISION, OF_HOST = range(7)
CORRECTED, WATCHED = 4, 7
# Its rows: of the step under way, the least and the most that was predicted, and what it took; the factor in the tables
# (of decisions and the host: seconds expected of a layer, below 0 unknown); logarithms of the factor as it is
# estimated, and of what each of the last two steps alone said; steps that said something, and steps since one did; of
# the run, what was predicted and measured, and the sum of each step's relative error.
LEAST_S, MOST_S, TOOK_S, FACTOR, ESTIMATE, LAST, LAST_BUT_ONE = range(7)
STEPS_SEEN, STEPS_UNSEEN, SUM_PREDICTED_S, SUM_MEASURED_S, SUM_ERROR = range(7, 12)
WATCH = 12


class Board(NamedTuple):
    """The sections.

    `state_F`, `slot_F` (-1: none), `free_S` (the first at[FREE] are free slots; all are below at[SLOTS]): the
    residency. `unused_F`: prefetched and not yet asked for. `flying_F`, `left_s_F`: copies under way and the
    seconds until each has wholly arrived, in order; `arrived_F`: those that have, not yet noted. `active_N`
    (ascending), `tokens_N`, `weights_E`: what a layer asks for; `kept_N`: as in a Demand, where now[KEPT] is not 0.
    `runs_4N`, `fetches_3N`, `evicts_N`, `copies_3W`, `gain_s_W`: what was decided. `packed_P`, `victims_N`,
    `choice_N`: a dispatch problem (DispatchProblem.packed), whom its places belong to, and its answer. `seen_F`:
    tokens demanded so far. `watch_RC`: predictions beside what was measured, see above. `mark_E`: scratch.
    """

    at: IntArray
    now: FloatArray
    machine: FloatArray
    counts: IntArray
    sums_s: FloatArray
    statuses: IntArray
    state_F: Bytes
    slot_F: IntArray
    free_S: IntArray
    unused_F: Bytes
    flying_F: IntArray
    left_s_F: FloatArray
    arrived_F: IntArray
    active_N: IntArray
    tokens_N: IntArray
    weights_E: FloatArray
    kept_N: FloatArray
    runs_4N: IntArray
    fetches_3N: IntArray
    evicts_N: IntArray
    copies_3W: IntArray
    gain_s_W: FloatArray
    packed_P: FloatArray
    victims_N: IntArray
    choice_N: npt.NDArray[np.int8]
    seen_F: IntArray
    mark_E: IntArray
    watch_RC: FloatArray


def open_board(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> Board:
    """The sections of a board's three arrays, in Python and in kernels alike."""
    at = ints_I[:AT]
    experts = at[EXPERTS]
    flat = at[LAYERS] * experts
    statuses = AT + COUNTS
    slot = statuses + STATUSES
    free = slot + flat
    flying = free + flat
    arrived = flying + flat
    active = arrived + flat
    tokens = active + experts
    runs = tokens + experts
    fetches = runs + 4 * experts
    evicts = fetches + 3 * experts
    copies = evicts + flat
    victims = copies + 3 * MOST_COPIES
    seen = victims + experts
    mark = seen + flat
    machine = NOW
    sums = machine + MACHINE
    left = sums + SUMS
    weights = left + flat
    kept = weights + experts
    gain = kept + experts
    packed = gain + MOST_COPIES
    watch = packed + 6 * experts
    return Board(
        at,
        floats_R[:NOW],
        floats_R[machine:sums],
        ints_I[AT:statuses],
        floats_R[sums:left],
        ints_I[statuses:slot],
        bytes_B[:flat],
        ints_I[slot:free],
        ints_I[free:flying],
        bytes_B[flat : 2 * flat],
        ints_I[flying:arrived],
        floats_R[left:weights],
        ints_I[arrived:active],
        ints_I[active:tokens],
        ints_I[tokens:runs],
        floats_R[weights:kept],
        floats_R[kept:gain],
        ints_I[runs:fetches].reshape(4, experts),
        ints_I[fetches:evicts].reshape(3, experts),
        ints_I[evicts:copies],
        ints_I[copies:victims].reshape(3, MOST_COPIES),
        floats_R[gain:packed],
        floats_R[packed:watch],
        ints_I[victims:seen],
        bytes_B[2 * flat : 2 * flat + experts].view(np.int8),
        ints_I[seen:mark],
        ints_I[mark : mark + experts],
        floats_R[watch : watch + WATCH * WATCHED].reshape(WATCH, WATCHED),
    )


def new_board(layers: int, experts: int, slots: int) -> Arrays:
    """The arrays of a board on which nothing is resident, every slot free.

    There is room for a slot for every expert, so that their number, at[SLOTS], may change.
    """
    flat = layers * experts
    bytes_B = np.zeros(2 * flat + experts, np.uint8)
    ints_I = np.zeros(AT + COUNTS + STATUSES + 6 * flat + 11 * experts + 3 * MOST_COPIES, np.int64)
    floats_R = np.zeros(NOW + MACHINE + SUMS + flat + 8 * experts + MOST_COPIES + WATCH * WATCHED)
    ints_I[[LAYERS, EXPERTS, SLOTS]] = layers, experts, slots
    board = open_board(bytes_B, ints_I, floats_R)
    board.at[FREE] = slots
    board.counts[LAST_STEP] = -1
    board.watch_RC[FACTOR, :CORRECTED], board.watch_RC[FACTOR, CORRECTED:] = 1.0, -1.0
    board.slot_F[:] = FREE_SLOT
    board.free_S[:slots] = np.arange(slots)[::-1]
    return bytes_B, ints_I, floats_R
