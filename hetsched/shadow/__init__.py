"""Shadow: what simple strategies would have taken on the same demand, and the watch that lets one of them decide.

Beside the running strategy its rivals are reckoned up, layer by layer, by the cost model in force: cpu-only,
static-frequency, layer-split and fetch-all (every miss is copied, the least recently used expert of its layer gives
way, each layer has an equal share of the slots). Where the running one has been measured to be worse than that, the
rival decides, on the same board and residency, and the original is tried again later. All of it is in kernels which are
part of the policy's own, so that engines and compiled replays run the same.

Shapes: A strategies, the original first; F all experts flat (layer * E + expert); S slots; W moves remembered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..board import Bytes
from ..types import FloatArray, IntArray

ORIGINAL, CPU_ONLY, STATIC, SPLIT, FETCH_ALL = range(5)
STRATEGIES = 5
WORSE, AGAIN, LOOK, BACK = range(4)  # why another decides: see watchdog.REASONS
MOST_MOVES = 64  # remembered, the last ones

# Places in `at`. Who decides, how many steps it has, and how many are left of a look at it; the step seen last; steps
# judged; of the layers of the step under way: active experts, phase; visits of layers; the first target that may be
# missing; slots of a layer for fetch-all; targets of the static placement and of the split; moves so far; step at which
# a look at the best rival begins and how many it takes; whether the original is on trial.
DECIDES, STAY, LOOKING, LAST_SEEN, STEPS, ACTIVE_NOW, PHASE_NOW, VISIT, NEXT = range(9)
SHARE, TARGETS, SPLIT_TARGETS, MOVES, TRIAL, ON_TRIAL = range(9, 15)
AT = 15
# Places in `now`, seconds: the board's sums when the last step ended, of experts, of what all strategies share, and as
# predicted.
LAST_MAKESPAN, LAST_COMMON, LAST_PREDICTED = range(3)
NOW = 4
STEP, FROM, TO, WHY = range(4)  # rows of `moves_4W`
MEASURED, EXPECTED = range(2)  # rows of `seconds_2W`


class Watch(NamedTuple):
    """The sections.

    `used_F`: visit that last asked for an expert; `targets_S`, `split_S`: placements of static-frequency and
    layer-split, most wanted first; `rests_A`, `known_until_A`: steps for which a strategy's measured seconds count
    instead of the shadow's after it was left, doubled or more each time, and the step at which they end. `moves_4W`,
    `seconds_2W`: the last moves. `is_placed_F`, `is_split_F`, `is_cached_F`: what the three placements hold.
    `step_s_A`: seconds of the experts, reckoned so far in this step; `measured_s_A`: measured, for each active expert;
    `lost_A`: step times that each rival would have saved, see judge; `span_3A`: since that was last nothing, steps,
    seconds measured and expected.
    """

    at: IntArray
    rests_A: IntArray
    known_until_A: IntArray
    moves_4W: IntArray
    used_F: IntArray
    targets_S: IntArray
    split_S: IntArray
    now: FloatArray
    step_s_A: FloatArray
    measured_s_A: FloatArray
    lost_A: FloatArray
    span_3A: FloatArray
    seconds_2W: FloatArray
    is_placed_F: Bytes
    is_split_F: Bytes
    is_cached_F: Bytes


Arrays = tuple[Bytes, IntArray, FloatArray]


def sections(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> Watch:
    """The sections of a watch's three arrays, in Python and in kernels alike."""
    flat = len(bytes_B) // 3
    known = AT + STRATEGIES
    moves = known + STRATEGIES
    used = moves + 4 * MOST_MOVES
    targets = used + flat
    split = (targets + len(ints_I)) // 2
    step = NOW
    measured = step + STRATEGIES
    lost = measured + STRATEGIES
    span = lost + STRATEGIES
    seconds = span + 3 * STRATEGIES
    return Watch(
        ints_I[:AT],
        ints_I[AT:known],
        ints_I[known:moves],
        ints_I[moves:used].reshape(4, MOST_MOVES),
        ints_I[used:targets],
        ints_I[targets:split],
        ints_I[split:],
        floats_R[:NOW],
        floats_R[step:measured],
        floats_R[measured:lost],
        floats_R[lost:span],
        floats_R[span:seconds].reshape(3, STRATEGIES),
        floats_R[seconds:].reshape(2, MOST_MOVES),
        bytes_B[:flat],
        bytes_B[flat : 2 * flat],
        bytes_B[2 * flat :],
    )


def new_watch(flat: int) -> Arrays:
    """The arrays of a watch before the first step; placements are filled in by watchdog, of any number of slots."""
    ints_I = np.zeros(AT + 2 * STRATEGIES + 4 * MOST_MOVES + 3 * flat, np.int64)
    floats_R = np.zeros(NOW + 6 * STRATEGIES + 2 * MOST_MOVES)
    return np.zeros(3 * flat, np.uint8), ints_I, floats_R
