"""Kernels of hybrimoe: moving means of scores, and what the next layers' candidates would save in the schedule.

Shapes: L layers, E experts of a layer, F all experts flat (layer * E + expert), N experts of a simulated layer,
C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..board import (
    ABSENT,
    ACTIVE,
    COPY_S,
    CPU_S,
    CPU_START_S,
    EXPERTS,
    GPU_CALL_S,
    GPU_S,
    LAYER,
    LAYERS,
    SLOTS,
    TOKENS,
    WEIGHTED,
    Board,
    Bytes,
)
from ..board.rows import SAVES
from ..dispatch.judge import seconds
from ..jit import compiled, compiled_lean, specialised
from ..types import FloatArray, IntArray
from .compiled import PolicyKernels
from .idle_kernels import copy_in, expected, put_among, waiting_room
from .rule_kernels import rule_kernel

if TYPE_CHECKING:  # names that jit.specialised binds in the templates below

    def solve(*problem: Any) -> tuple[Any, float, float]: ...
    def makespan_s(board: Board, seconds_4T: FloatArray, own: Own, tokens_N: IntArray, here: int) -> float: ...


RULE = "list-hybrimoe"
MOST_CANDIDATES = 8  # of one layer, the likeliest ones
NEW, GAIN_S = range(2)  # rows of `found_2C`


class Own(NamedTuple):
    """The policy's arrays and tuning.

    `score_F`: S. `found_2C`: candidates, the largest gain first. `kept_F`: what the next layers are expected to want.
    `spare_4E`, `packed_P`: room to compute in.
    """

    score_F: FloatArray
    alpha: float
    top_k: int
    ahead: int
    depth: int
    next_LE: FloatArray
    found_2C: FloatArray
    kept_F: Bytes
    spare_4E: IntArray
    packed_P: FloatArray


def named(a: Any) -> Own:
    """The arrays by name; a[1] and a[2] are the plan's."""
    return Own(a[0], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11])


own_of = compiled_lean(named)
counted_own_of = compiled(named)  # for kernels that make arrays, see jit.compiled_lean


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
    """S <- alpha * TopP(s) + (1 - alpha) * S."""
    own, active, experts = own_of(arrays), board.at[ACTIVE], board.at[EXPERTS]
    first, top_E, score_N, count = board.at[LAYER] * experts, own.spare_4E[0], own.packed_P, 0
    for i in range(active):
        score_N[i] = board.weights_E[board.active_N[i]] if board.at[WEIGHTED] else board.tokens_N[i]
        count = put_among(top_E, count, 2 * own.top_k, score_N, i)
    for f in range(first, first + experts):
        own.score_F[f] *= 1.0 - own.alpha
    for place in range(count):
        f = first + board.active_N[top_E[place]]
        own.score_F[f] += own.alpha * score_N[top_E[place]] / max(board.at[TOKENS], 1)


def choosing(planned: PolicyKernels) -> Callable[..., None]:
    """Prefetches with the largest gains, simulated by the rule that plans."""
    stamp = planned.stamp()
    simulated = specialised(RULE, _simulating, stamp, solve=rule_kernel(RULE).solve)
    return specialised(planned.name, _choosing, stamp, makespan_s=simulated)


def _simulating(stamp: int) -> Callable[..., float]:
    def simulated_s(board: Board, seconds_4T: FloatArray, own: Own, tokens_N: IntArray, here: int) -> float:
        """Makespan of a layer whose first experts are `here` and the others missing, with a place for each; free link.

        One expert has tokens_N[i] tokens.
        """
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        size, packed_P = len(tokens_N), own.packed_P[: 6 * len(tokens_N) - here]
        packed_P[:] = 0.0
        for i in range(size):
            packed_P[i], packed_P[size + i] = seconds_4T[GPU_S, tokens_N[i]], seconds_4T[CPU_S, tokens_N[i]]
            packed_P[3 * size + i] = board.machine[COPY_S]
            packed_P[4 * size + i] = 0.0 if i < here else np.inf
        lanes = 0.0, seconds_4T[CPU_START_S, board.at[TOKENS]], board.machine[GPU_CALL_S]
        choice_N, _, _ = solve(packed_P, size, *lanes, 0, 0, 0)
        found_s, _ = seconds(packed_P, size, *lanes, choice_N)
        return float(found_s)

    return simulated_s


def _choosing(stamp: int) -> Callable[..., None]:
    def choose(board: Board, seconds_4T: FloatArray, arrays: Any) -> None:
        """The candidates of the next layers whose presence would save most."""
        assert stamp >= 0
        own, experts, layer, found = counted_own_of(arrays), board.at[EXPERTS], board.at[LAYER], 0
        space = waiting_room(board, own.depth)
        if space <= 0 or not board.at[SLOTS]:
            return
        own.kept_F[:] = 0
        wanted_E, tokens_E, sizes_E, moved_E = own.spare_4E[0], own.spare_4E[1], own.spare_4E[2], own.spare_4E[3]
        for l in range(layer + 1, min(layer + 1 + own.ahead, board.at[LAYERS])):
            count = expected(own.next_LE[l], own.top_k, board.at[TOKENS], wanted_E, tokens_E)
            here = sort_out(board, own, l * experts, count)
            before_s, last, saved_s = 0.0, 0, 0.0
            for i in range(min(count - here, MOST_CANDIDATES)):
                if i == 0:
                    before_s = makespan_s(board, seconds_4T, own, sizes_E[:count], here)
                if sizes_E[here + i] != last:  # those with as many tokens save as much
                    last = sizes_E[here + i]
                    bring(own, count, here, i)
                    saved_s = before_s - makespan_s(board, seconds_4T, own, moved_E[:count], here + 1)
                if saved_s > 0:
                    found = rank(own.found_2C, found, wanted_E[i], saved_s)
        new_W = wanted_E[: min(space, found)]
        for w in range(len(new_W)):
            new_W[w] = int(own.found_2C[NEW, w])
        copy_in(board, new_W, own.found_2C[GAIN_S], SAVES, own.score_F, np.inf, 0, len(own.score_F), own.kept_F)

    return choose


@compiled_lean
def sort_out(board: Board, own: Own, first: int, count: int) -> int:
    """Mark what a layer is expected to want; tokens of who is there first, who is missing flat; how many are there."""
    wanted_E, tokens_E, sizes_E = own.spare_4E[0], own.spare_4E[1], own.spare_4E[2]
    here = missing = 0
    for i in range(count):
        own.kept_F[first + wanted_E[i]] = 1
        if board.state_F[first + wanted_E[i]] != ABSENT:
            sizes_E[here] = tokens_E[i]
            here += 1
    for i in range(count):
        if board.state_F[first + wanted_E[i]] == ABSENT:
            sizes_E[here + missing] = tokens_E[i]
            wanted_E[missing] = first + wanted_E[i]
            missing += 1
    return here


@compiled_lean
def bring(own: Own, count: int, here: int, i: int) -> None:
    """The same tokens with the i-th missing expert behind those that are there, into the last of `spare_4E`."""
    sizes_E, moved_E = own.spare_4E[2], own.spare_4E[3]
    for place in range(count):
        moved_E[place] = sizes_E[place]
    for place in range(here + i, here, -1):
        moved_E[place] = moved_E[place - 1]
    moved_E[here] = sizes_E[here + i]


@compiled_lean
def rank(found_2C: FloatArray, count: int, new: int, gain_s: float) -> int:
    """Put a candidate among the first `count`: largest gain first, behind its equals; how many there are then."""
    place = count
    while place > 0 and found_2C[GAIN_S, place - 1] < gain_s:
        found_2C[NEW, place], found_2C[GAIN_S, place] = found_2C[NEW, place - 1], found_2C[GAIN_S, place - 1]
        place -= 1
    found_2C[NEW, place], found_2C[GAIN_S, place] = new, gain_s
    return count + 1
