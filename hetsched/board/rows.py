"""What policies' kernels write: where each expert runs, what is copied in whose place, and why."""

from __future__ import annotations

from ..jit import compiled_lean
from ..types import FloatArray
from . import (
    ACTIVE,
    CAUSE,
    COPIES,
    COPY_S,
    COUNT,
    CPU_S,
    CPU_START_S,
    EVICTS,
    EXPERT,
    EXPERTS,
    FETCHES,
    GPU_CALL_S,
    GPU_S,
    LANE,
    LAYER,
    LINK_FREE_S,
    NEW,
    ON_CPU,
    ON_GPU,
    PREDICTED_S,
    RESIDENT,
    RUNS,
    TOKENS,
    VICTIM,
    WHY,
    Board,
)

IS_RESIDENT, IN_FLIGHT, FETCHED, CPU_SOONER, MISSED = range(5)
BEATS_CPU, WAS_MISSED = range(2)
SAVES, IS_LIKELY, WAS_BUSIER, USED_MORE, IS_HOT, IS_DRAFTED = range(6)


@compiled_lean
def run(board: Board, i: int, lane: int, cause: int) -> None:
    """The i-th active expert runs on this lane, after those before."""
    row = board.at[RUNS]
    board.runs_4N[EXPERT, row], board.runs_4N[COUNT, row] = board.active_N[i], board.tokens_N[i]
    board.runs_4N[LANE, row], board.runs_4N[CAUSE, row] = lane, cause
    board.at[RUNS] = row + 1


@compiled_lean
def fetch(board: Board, new: int, victim: int, cause: int) -> None:
    """A demanded copy, after those before; experts flat, a victim of -1 is a free slot."""
    row = board.at[FETCHES]
    board.fetches_3N[NEW, row], board.fetches_3N[VICTIM, row], board.fetches_3N[WHY, row] = new, victim, cause
    board.at[FETCHES] = row + 1


@compiled_lean
def evict(board: Board, f: int) -> None:
    """A resident expert is given up."""
    board.evicts_N[board.at[EVICTS]] = f
    board.at[EVICTS] += 1


@compiled_lean
def copy_ahead(board: Board, new: int, victim: int, gain_s: float, why: int) -> None:
    """A copy for an idle link; `gain_s` where that is its cause."""
    row = board.at[COPIES]
    board.copies_3W[NEW, row], board.copies_3W[VICTIM, row], board.copies_3W[WHY, row] = new, victim, why
    board.gain_s_W[row] = gain_s
    board.at[COPIES] = row + 1


@compiled_lean
def misses_on_cpu(board: Board, seconds_4T: FloatArray) -> None:
    """Residents on the GPU, then what is demanded on its way, the rest on the CPU, and when the last lane ends."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    gpu_end_s = cpu_s = 0.0
    for i in range(at[ACTIVE]):
        if board.state_F[first + board.active_N[i]] == RESIDENT:
            run(board, i, ON_GPU, IS_RESIDENT)
            gpu_end_s += seconds_4T[GPU_S, board.tokens_N[i]]
    if at[RUNS] + at[FETCHES]:
        gpu_end_s += board.machine[GPU_CALL_S]
    arrival_s = board.now[LINK_FREE_S]
    for k in range(at[FETCHES]):
        for i in range(at[ACTIVE]):
            if first + board.active_N[i] == board.fetches_3N[NEW, k]:
                run(board, i, ON_GPU, FETCHED)
                arrival_s += board.machine[COPY_S]
                gpu_end_s = max(gpu_end_s, arrival_s) + seconds_4T[GPU_S, board.tokens_N[i]]
    on_gpu = at[RUNS]
    for i in range(at[ACTIVE]):
        is_fetched = False
        for k in range(at[FETCHES]):
            is_fetched |= first + board.active_N[i] == board.fetches_3N[NEW, k]
        if board.state_F[first + board.active_N[i]] != RESIDENT and not is_fetched:
            run(board, i, ON_CPU, MISSED)
            cpu_s += seconds_4T[CPU_S, board.tokens_N[i]]
    if at[RUNS] > on_gpu:
        gpu_end_s = max(gpu_end_s, seconds_4T[CPU_START_S, at[TOKENS]] + cpu_s)
    board.now[PREDICTED_S] = gpu_end_s
