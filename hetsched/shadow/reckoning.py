"""Kernels of the reckoning: seconds that each simple strategy would have taken for a layer's experts.

Static placements copy nothing, so their lanes just add up; fetch-all ends every layer with an idle link. What of it
finds no slot and runs on the CPU beside copies is reckoned without their contention: only large steps have that.
Seconds are those of the cost model in force, corrections counted.

Shapes: N active experts of the layer, E experts, F all experts flat.
"""

from __future__ import annotations

from ..board import (
    ACTIVE,
    COPY_S,
    CPU_S,
    CPU_START_S,
    EXPERTS,
    GPU_CALL_S,
    GPU_S,
    LAYER,
    PHASE,
    TOKENS,
    Board,
    Bytes,
)
from ..jit import compiled_lean
from ..types import FloatArray
from . import (
    ACTIVE_NOW,
    CPU_ONLY,
    FETCH_ALL,
    PHASE_NOW,
    SHARE,
    SPLIT,
    STATIC,
    VISIT,
    Watch,
)


@compiled_lean
def reckon(board: Board, seconds_4T: FloatArray, watch: Watch) -> None:
    """Add the layer on the board to what every simple strategy has taken in this step."""
    at, expected_s_A = watch.at, watch.step_s_A
    at[VISIT] += 1
    at[ACTIVE_NOW] += board.at[ACTIVE]
    at[PHASE_NOW] = board.at[PHASE]
    on_cpu_s = seconds_4T[CPU_START_S, board.at[TOKENS]]
    for i in range(board.at[ACTIVE]):
        on_cpu_s += seconds_4T[CPU_S, board.tokens_N[i]]
    expected_s_A[CPU_ONLY] += on_cpu_s
    expected_s_A[STATIC] += placed_s(board, seconds_4T, watch.is_placed_F)
    expected_s_A[SPLIT] += placed_s(board, seconds_4T, watch.is_split_F)
    expected_s_A[FETCH_ALL] += fetched_s(board, seconds_4T, watch)
    first = board.at[LAYER] * board.at[EXPERTS]
    for i in range(board.at[ACTIVE]):
        watch.used_F[first + board.active_N[i]] = at[VISIT]


@compiled_lean
def placed_s(board: Board, seconds_4T: FloatArray, is_placed_F: Bytes) -> float:
    """Seconds of the layer where these are on the GPU and stay there."""
    first, here, away, gpu_s, cpu_s = board.at[LAYER] * board.at[EXPERTS], 0, 0, 0.0, 0.0
    for i in range(board.at[ACTIVE]):
        if is_placed_F[first + board.active_N[i]]:
            gpu_s += seconds_4T[GPU_S, board.tokens_N[i]]
            here += 1
        else:
            cpu_s += seconds_4T[CPU_S, board.tokens_N[i]]
            away += 1
    gpu_end_s = board.machine[GPU_CALL_S] + gpu_s if here else 0.0
    cpu_end_s = seconds_4T[CPU_START_S, board.at[TOKENS]] + cpu_s if away else 0.0
    return float(max(gpu_end_s, cpu_end_s))


@compiled_lean
def fetched_s(board: Board, seconds_4T: FloatArray, watch: Watch) -> float:
    """Seconds of the layer where every miss is copied; what finds no slot runs on the CPU. The cache follows."""
    first, fetched, gpu_s = board.at[LAYER] * board.at[EXPERTS], 0, 0.0
    for i in range(board.at[ACTIVE]):
        if watch.is_cached_F[first + board.active_N[i]]:
            gpu_s += seconds_4T[GPU_S, board.tokens_N[i]]
            watch.used_F[first + board.active_N[i]] = watch.at[VISIT]  # none of these gives way now
    gpu_end_s, cpu_s, cached = board.machine[GPU_CALL_S] + gpu_s, 0.0, 0
    for f in range(first, first + board.at[EXPERTS]):
        cached += watch.is_cached_F[f]
    for i in range(board.at[ACTIVE]):
        f = first + board.active_N[i]
        if watch.is_cached_F[f]:
            continue
        if cached >= watch.at[SHARE] and not make_room(board, watch, first):
            cpu_s += seconds_4T[CPU_S, board.tokens_N[i]]
            continue
        cached = min(cached + 1, watch.at[SHARE])
        watch.is_cached_F[f], watch.used_F[f] = 1, watch.at[VISIT]
        fetched += 1
        gpu_end_s = max(gpu_end_s, fetched * board.machine[COPY_S]) + seconds_4T[GPU_S, board.tokens_N[i]]
    return float(max(gpu_end_s, seconds_4T[CPU_START_S, board.at[TOKENS]] + cpu_s if cpu_s else 0.0))


@compiled_lean
def make_room(board: Board, watch: Watch, first: int) -> bool:
    """Let the layer's least recently used expert that this visit does not need give way; whether there is one."""
    victim = -1
    for f in range(first, first + board.at[EXPERTS]):
        may_leave = watch.is_cached_F[f] and watch.used_F[f] < watch.at[VISIT]
        if may_leave and (victim < 0 or watch.used_F[f] < watch.used_F[victim]):
            victim = f
    if victim >= 0:
        watch.is_cached_F[victim] = 0
    return victim >= 0
