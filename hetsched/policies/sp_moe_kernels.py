"""Kernels of sp-moe: what is on its way is waited for, and what a draft names is copied up to the cut-off layer.

Shapes: L layers, E experts of a layer, F all experts flat (layer * E + expert), W copies chosen at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..board import (
    ABSENT,
    ACTIVE,
    COPIES,
    COPY_S,
    COPYING,
    CPU_S,
    CPU_START_S,
    DENSE_S,
    EXPERT,
    EXPERTS,
    FETCHES,
    FLYING,
    GPU_CALL_S,
    GPU_S,
    LAYER,
    LAYERS,
    LINK_FREE_S,
    N_LAYERS,
    NEW,
    ON_CPU,
    ON_GPU,
    PREDICTED_S,
    RESIDENT,
    RUNS,
    S_DECISION,
    S_DENSE,
    S_HOST,
    S_HOST_INSIDE,
    S_MAKESPAN,
    SLOTS,
    TOKENS,
    Board,
)
from ..board.rows import FETCHED, IN_FLIGHT, IS_DRAFTED, IS_RESIDENT, MISSED, run
from ..jit import compiled_lean
from ..speculation import cut_off as speculation
from ..types import FloatArray
from .idle_kernels import copy_in, waiting_room
from .on_demand_kernels import VISIT

SOURCES = ("hetsched.policies.sp_moe_kernels", "hetsched.policies.idle_kernels", "hetsched.speculation.cut_off")
NAMED = 0.5  # of P: above it an expert is named

# Places in `numbers`: the tuning; seconds of a layer in the last step, and of all before; the cut-off layer; layers
# that were run before; from MISSING on, copies of each layer.
DRAFTING_S, DEPTH, LAYER_S, BEFORE_S, CUT_OFF, LAYERS_BEFORE, MISSING = range(7)
last_in_time = compiled_lean(speculation.last_in_time)


def first_numbers(drafting_s: float, depth: int, layers: int) -> FloatArray:
    """`numbers` before the first step."""
    return np.array([drafting_s, depth, 0.0, 0.0, -1.0, 0.0, *[0.0] * layers])


@compiled_lean
def wait_on_gpu(board: Board, seconds_4T: FloatArray) -> None:
    """Residents on the GPU, then what is on its way, then what is fetched; what found no place on the CPU."""
    at, first, cpu_s = board.at, board.at[LAYER] * board.at[EXPERTS], 0.0
    gpu_end_s, link_s = board.machine[GPU_CALL_S], board.now[LINK_FREE_S]
    for i in range(at[ACTIVE]):
        if board.state_F[first + board.active_N[i]] == RESIDENT:
            run(board, i, ON_GPU, IS_RESIDENT)
            gpu_end_s += seconds_4T[GPU_S, board.tokens_N[i]]
    for j in range(at[FLYING]):
        i = _active(board, board.flying_F[j])
        if i >= 0 and board.state_F[board.flying_F[j]] == COPYING:
            run(board, i, ON_GPU, IN_FLIGHT)
            link_s = max(link_s, board.left_s_F[j])
            gpu_end_s = max(gpu_end_s, board.left_s_F[j]) + seconds_4T[GPU_S, board.tokens_N[i]]
    for k in range(at[FETCHES]):
        i = _active(board, board.fetches_3N[NEW, k])
        run(board, i, ON_GPU, FETCHED)
        link_s += board.machine[COPY_S]
        gpu_end_s = max(gpu_end_s, link_s) + seconds_4T[GPU_S, board.tokens_N[i]]
    on_gpu = at[RUNS]
    for i in range(at[ACTIVE]):
        if not _runs(board, board.active_N[i], on_gpu):
            run(board, i, ON_CPU, MISSED)
            cpu_s += seconds_4T[CPU_S, board.tokens_N[i]]
    cpu_end_s = seconds_4T[CPU_START_S, at[TOKENS]] + cpu_s if at[RUNS] > on_gpu else 0.0
    board.now[PREDICTED_S] = max(gpu_end_s if on_gpu else 0.0, cpu_end_s)


@compiled_lean
def _active(board: Board, f: int) -> int:
    """Which active expert this is, or -1."""
    for i in range(board.at[ACTIVE]):
        if board.at[LAYER] * board.at[EXPERTS] + board.active_N[i] == f:
            return i
    return -1


@compiled_lean
def _runs(board: Board, e: int, count: int) -> bool:
    found = False
    for row in range(count):
        found |= board.runs_4N[EXPERT, row] == e
    return found


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """After a step's last layer the cut-off; then, as the link has room, copies of who is named up to it."""
    slots, rule, next_LE, numbers, new_W, gain_s_W, kept_F = own[0], own[1], own[3], own[4], own[5], own[6], own[7]
    at, first = board.at, board.at[LAYER] + 1
    if not at[SLOTS]:
        return
    if first == at[LAYERS]:
        first = 0
        _measure(board, numbers)
        numbers[CUT_OFF] = cut_off(board, seconds_4T, next_LE, numbers)
    space, found = waiting_room(board, int(numbers[DEPTH])), 0
    if space <= 0 or numbers[CUT_OFF] < first:
        return
    kept_F[:] = 0
    for l in range(first, int(numbers[CUT_OFF]) + 1):
        for e in range(at[EXPERTS]):
            f = l * at[EXPERTS] + e
            if next_LE[l, e] >= NAMED:
                kept_F[f] = 1
                if board.state_F[f] == ABSENT and found < space:
                    new_W[found] = f
                    found += 1
    copy_in(board, new_W[:found], gain_s_W, IS_DRAFTED, rule.used_F, np.inf, 0, len(kept_F), kept_F)
    for w in range(at[COPIES]):
        rule.used_F[board.copies_3W[NEW, w]] = slots.at[VISIT]


@compiled_lean
def cut_off(board: Board, seconds_4T: FloatArray, next_LE: FloatArray, numbers: FloatArray) -> int:
    """The last layer of the next step by whose router all copies up to it have arrived; -1: not even the first."""
    at, link_s, missing_L = board.at, 0.0, numbers[MISSING:]
    for j in range(at[FLYING]):
        link_s = max(link_s, board.left_s_F[j])
    for l in range(at[LAYERS]):
        missing_L[l] = 0.0
        for e in range(at[EXPERTS]):
            missing_L[l] += board.state_F[l * at[EXPERTS] + e] == ABSENT and next_LE[l, e] >= NAMED
    due_s = board.now[PREDICTED_S] + numbers[DRAFTING_S] + seconds_4T[DENSE_S, at[TOKENS]]
    return int(last_in_time(missing_L, board.machine[COPY_S], link_s, due_s, numbers[LAYER_S]))


@compiled_lean
def _measure(board: Board, numbers: FloatArray) -> None:
    """What a layer took, on average since this was last asked, if a step has ended since."""
    sums_s, layers = board.sums_s, board.counts[N_LAYERS]
    ran = layers - numbers[LAYERS_BEFORE]
    if ran < board.at[LAYERS] and numbers[LAYERS_BEFORE] > 0.0:
        return
    so_far_s = sums_s[S_DENSE] + sums_s[S_HOST] - sums_s[S_HOST_INSIDE] + sums_s[S_DECISION] + sums_s[S_MAKESPAN]
    numbers[LAYER_S] = (so_far_s - numbers[BEFORE_S]) / max(ran, board.at[LAYERS])
    numbers[BEFORE_S], numbers[LAYERS_BEFORE] = so_far_s, layers
