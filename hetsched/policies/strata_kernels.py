"""Kernels of strata: what executed layers took on each lane, and swaps that pay by it within their share of the time.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..board import (
    ABSENT,
    ACTIVE,
    COPY_S,
    EXPERTS,
    FLYING,
    FREE,
    FREE_SLOT,
    LANE,
    LAYER,
    ON_GPU,
    RUNS,
    S_CPU,
    S_DECISION,
    S_DENSE,
    S_GPU,
    S_HOST,
    S_HOST_INSIDE,
    S_MAKESPAN,
    SLOTS,
    TOKENS,
    Board,
)
from ..board.rows import WAS_MISSED, fetch, misses_on_cpu
from ..cost.model import CostModel
from ..jit import compiled_lean
from ..types import FloatArray
from .compiled import DECIDED, PolicyKernels
from .swap_kernels import SOURCE, follow, least_idle, mark_active, swap

RATE = 0.02  # of the means that follow what was measured

# Places in `numbers`: the tuning; seconds of an expert on each lane, measured; misses that the link owes; seconds of
# uploads so far; the last layer's tokens, and experts on each lane.
HORIZON, BUDGET, SHARE, ON_CPU_S, ON_GPU_S, OWED, UPLOADS_S, LAST_TOKENS, LAST_CPU, LAST_GPU = range(10)
CPU_SO_FAR_S, GPU_SO_FAR_S = range(2)  # places in `before_2`: the board's sums when they were last looked at


def first_numbers(cost: CostModel, horizon: float, budget: float, share: float) -> FloatArray:
    """`numbers` before the first step."""
    numbers = np.zeros(10)
    numbers[[HORIZON, BUDGET, SHARE]] = horizon, budget, share
    if cost.has_gpu:
        numbers[[ON_CPU_S, ON_GPU_S]] = cost.cpu_s(1), cost.gpu_s(1)
    return numbers


@compiled_lean
def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    """Residents on the GPU, of the misses what is owed over the link, the rest on the CPU."""
    mean_F, numbers, before_2 = own
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    _measure(board, numbers, before_2)
    missing, wanted = 0, -1
    for i in range(at[ACTIVE]):
        f = first + board.active_N[i]
        if board.state_F[f] == ABSENT:
            missing += 1
            if wanted < 0 or mean_F[f] > mean_F[wanted]:
                wanted = f
    numbers[OWED] = min(1.0, numbers[OWED] + numbers[SHARE] * missing)
    if at[SLOTS] and wanted >= 0 and numbers[OWED] >= 1.0 - 1e-9:
        mark_active(board)
        victim = FREE_SLOT if at[FREE] else least_idle(board, mean_F)
        if victim != FREE_SLOT or at[FREE]:
            fetch(board, wanted, victim, WAS_MISSED)
            numbers[OWED] -= 1.0
    misses_on_cpu(board, seconds_4T)
    return DECIDED


@compiled_lean
def _measure(board: Board, numbers: FloatArray, before_2: FloatArray) -> None:
    """Move the means by what the layer before took, where it was a decode step's.

    Not by a step's last layer: what the step takes after it is added to the sums meanwhile.
    """
    cpu_s = board.sums_s[S_CPU] - before_2[CPU_SO_FAR_S]
    gpu_so_far_s = board.sums_s[S_GPU] - board.sums_s[S_DENSE]
    gpu_s = gpu_so_far_s - before_2[GPU_SO_FAR_S]
    if numbers[LAST_TOKENS] == 1.0 and board.at[LAYER] > 0:
        if numbers[LAST_CPU] and cpu_s > 0.0:
            numbers[ON_CPU_S] += RATE * (cpu_s / numbers[LAST_CPU] - numbers[ON_CPU_S])
        if numbers[LAST_GPU] and gpu_s > 0.0:
            numbers[ON_GPU_S] += RATE * (gpu_s / numbers[LAST_GPU] - numbers[ON_GPU_S])
    before_2[CPU_SO_FAR_S], before_2[GPU_SO_FAR_S] = board.sums_s[S_CPU], gpu_so_far_s


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """The mean of demand, and what runs where in this layer."""
    mean_F, numbers, _ = own
    follow(board, mean_F, 1.0 / numbers[HORIZON])
    on_gpu = 0
    for i in range(board.at[RUNS]):
        on_gpu += board.runs_4N[LANE, i] == ON_GPU
    numbers[LAST_TOKENS] = board.at[TOKENS]
    numbers[LAST_GPU], numbers[LAST_CPU] = on_gpu, board.at[RUNS] - on_gpu


@compiled_lean
def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """A swap, if its measured gain exceeds the upload and uploads have their share of the time left."""
    mean_F, numbers, _ = own
    sums_s, upload_s = board.sums_s, board.machine[COPY_S]
    so_far_s = sums_s[S_DENSE] + sums_s[S_HOST] - sums_s[S_HOST_INSIDE] + sums_s[S_DECISION] + sums_s[S_MAKESPAN]
    saved_s = numbers[ON_CPU_S] - numbers[ON_GPU_S]
    if saved_s <= 0.0 or board.at[FLYING] or numbers[UPLOADS_S] + upload_s > numbers[BUDGET] * so_far_s:
        return
    if swap(board, mean_F, upload_s / (saved_s * numbers[HORIZON])):
        numbers[UPLOADS_S] += upload_s


KERNELS = PolicyKernels("strata", ("hetsched.policies.strata_kernels", SOURCE), plan, note=note, choose=choose)
