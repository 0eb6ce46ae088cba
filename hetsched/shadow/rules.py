"""Kernels of the simple strategies where they decide, on whatever residency they find.

cpu-only leaves residents where they are and uses none. Static placements use what is resident, and bring in what is
missing of theirs one copy at a time, on a link that is idle. fetch-all keeps the least recently used out.

Shapes: S slots, F all experts flat.
"""

from __future__ import annotations

from ..board import (
    ABSENT,
    ACTIVE,
    CPU_S,
    CPU_START_S,
    EXPERTS,
    FETCHES,
    FLYING,
    FREE,
    FREE_SLOT,
    LAYER,
    ON_CPU,
    PREDICTED_S,
    RESIDENT,
    TOKENS,
    VICTIM,
    Board,
    Bytes,
)
from ..board.rows import IS_PLACED, MISSED, WAS_MISSED, copy_ahead, fetch, misses_on_cpu, run
from ..jit import compiled_lean
from ..types import FloatArray, IntArray
from . import CPU_ONLY, DECIDES, FETCH_ALL, NEXT, SHARE, SPLIT, SPLIT_TARGETS, STATIC, TARGETS, Watch


@compiled_lean
def obey(board: Board, seconds_4T: FloatArray, watch: Watch) -> None:
    """Rows of the layer's decision by the simple strategy that decides now."""
    if watch.at[DECIDES] == CPU_ONLY:
        all_on_cpu(board, seconds_4T)
        return
    if watch.at[DECIDES] == FETCH_ALL:
        fetch_misses(board, watch)
    misses_on_cpu(board, seconds_4T)


@compiled_lean
def bring_in(board: Board, watch: Watch) -> None:
    """One copy of what the placement that decides now still misses, if the link is idle."""
    if board.at[FLYING]:
        return
    if watch.at[DECIDES] == STATIC:
        bring_next(board, watch, watch.targets_S[: watch.at[TARGETS]], watch.is_placed_F)
    elif watch.at[DECIDES] == SPLIT:
        bring_next(board, watch, watch.split_S[: watch.at[SPLIT_TARGETS]], watch.is_split_F)


@compiled_lean
def all_on_cpu(board: Board, seconds_4T: FloatArray) -> None:
    """Everything runs on the CPU."""
    seconds = seconds_4T[CPU_START_S, board.at[TOKENS]]
    for i in range(board.at[ACTIVE]):
        run(board, i, ON_CPU, MISSED)
        seconds += seconds_4T[CPU_S, board.tokens_N[i]]
    board.now[PREDICTED_S] = seconds


@compiled_lean
def bring_next(board: Board, watch: Watch, targets_S: IntArray, is_target_F: Bytes) -> None:
    """Copy the first absent target over a resident that is none and does not work now, or into a free slot."""
    at = watch.at
    while at[NEXT] < len(targets_S) and board.state_F[targets_S[at[NEXT]]] != ABSENT:
        at[NEXT] += 1
    if at[NEXT] == len(targets_S):
        return
    mark_active(board)
    victim = FREE_SLOT
    if not board.at[FREE]:
        victim = oldest(board, watch, 0, len(board.state_F), is_target_F, True)
        if victim < 0:
            return
    copy_ahead(board, targets_S[at[NEXT]], victim, 0.0, IS_PLACED)


@compiled_lean
def fetch_misses(board: Board, watch: Watch) -> None:
    """Demanded copies of all misses, as long as a slot is free or some resident may give way."""
    first, free = board.at[LAYER] * board.at[EXPERTS], board.at[FREE]
    mark_active(board)
    here = 0
    for f in range(first, first + board.at[EXPERTS]):
        here += board.state_F[f] != ABSENT
    for i in range(board.at[ACTIVE]):
        f, victim = first + board.active_N[i], FREE_SLOT
        if board.state_F[f] != ABSENT:
            continue
        if free > 0:
            free -= 1
        else:
            if here >= watch.at[SHARE]:
                victim = oldest(board, watch, first, first + board.at[EXPERTS], watch.is_placed_F, False)
            if victim < 0:
                victim = oldest(board, watch, 0, len(board.state_F), watch.is_placed_F, False)
            if victim < 0:
                break
            watch.used_F[victim] = -1 - watch.used_F[victim]  # taken: not the victim of another
            here -= first <= victim < first + board.at[EXPERTS]
        here += 1
        fetch(board, f, victim, WAS_MISSED)
    for k in range(board.at[FETCHES]):
        victim = board.fetches_3N[VICTIM, k]
        if victim != FREE_SLOT:
            watch.used_F[victim] = -1 - watch.used_F[victim]


@compiled_lean
def oldest(board: Board, watch: Watch, first: int, end: int, is_kept_F: Bytes, keeping: bool) -> int:
    """The least recently used idle resident of these that is not kept nor taken already, -1 for none."""
    best = -1
    for f in range(first, end):
        if board.state_F[f] != RESIDENT or watch.used_F[f] < 0 or (keeping and is_kept_F[f]):
            continue
        if (best < 0 or watch.used_F[f] < watch.used_F[best]) and not works(board, f):
            best = f
    return best


@compiled_lean
def mark_active(board: Board) -> None:
    """Mark in `mark_E` what the layer asks for."""
    board.mark_E[:] = 0
    for i in range(board.at[ACTIVE]):
        board.mark_E[board.active_N[i]] = 1


@compiled_lean
def works(board: Board, f: int) -> bool:
    """Whether the layer (see mark_active) asks for this expert."""
    e = f - board.at[LAYER] * board.at[EXPERTS]
    return bool(0 <= e < board.at[EXPERTS] and board.mark_E[e])
