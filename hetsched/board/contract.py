"""What every decision goes through, whoever made it: the contract is checked, then residency and counts follow.

A decision that breaks the contract changes nothing; `at[WRONG]` says what it does wrong and `at[WRONG_AT]` with whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..jit import borrowed, compiled_and_kept, compiled_lean, source_stamp
from ..types import FloatArray, IntArray
from . import (
    ABSENT,
    ACTIVE,
    ARRIVED,
    COPIES,
    COPYING,
    EVICTS,
    EXPERT,
    EXPERTS,
    FETCHES,
    FREE,
    FREE_SLOT,
    LANE,
    LAYER,
    N_ACTIVE,
    N_EVICTIONS,
    N_FETCHES,
    N_HITS,
    N_LATE,
    N_PREFETCHES,
    N_WASTED,
    NEW,
    ON_GPU,
    RESIDENT,
    RUNS,
    STATUS,
    UNDER_WAY,
    VICTIM,
    WRONG,
    WRONG_AT,
    Board,
    Bytes,
)
from . import open_board as sections
from .rows import misses_on_cpu

FINE, EVICTS_ACTIVE, EVICTS_ABSENT, FETCHES_PRESENT, NO_SLOT, RUNS_ABSENT, RUNS_OTHERS = range(7)

_sections = compiled_lean(sections)


@compiled_lean
def open_board(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> Board:
    """The sections of a board's three arrays, which the caller of the outermost kernel keeps alive."""
    return _sections(borrowed(bytes_B), borrowed(ints_I), borrowed(floats_R))


@compiled_lean
def arrive(board: Board, f: int) -> None:
    """A copy has wholly arrived; nothing where none was under way."""
    if board.state_F[f] == COPYING:
        board.state_F[f] = RESIDENT
        board.at[UNDER_WAY] -= 1


@compiled_lean
def drop(board: Board, f: int) -> None:
    """A copy will never arrive: the expert is absent again, and its slot free."""
    if board.state_F[f] == COPYING:
        board.state_F[f] = ABSENT
        board.at[UNDER_WAY] -= 1
        _free_slot_of(board, f)


@compiled_lean
def note_arrivals(board: Board) -> None:
    """Take note of what the link says has arrived."""
    for i in range(board.at[ARRIVED]):
        arrive(board, board.arrived_F[i])
    board.at[ARRIVED] = 0


@compiled_lean
def begin_layer(board: Board) -> None:
    """Note arrivals, count hits before anything moves, and begin an empty decision."""
    note_arrivals(board)
    at, counts = board.at, board.counts
    at[RUNS] = at[FETCHES] = at[EVICTS] = at[COPIES] = at[STATUS] = at[WRONG] = 0
    first = at[LAYER] * at[EXPERTS]
    for i in range(at[ACTIVE]):
        f = first + board.active_N[i]
        counts[N_ACTIVE] += 1
        counts[N_HITS] += board.state_F[f] == RESIDENT
        counts[N_LATE] += board.state_F[f] == COPYING
        board.unused_F[f] = 0


@compiled_lean
def apply_plan(board: Board) -> int:
    """Check a layer's decision and let it happen: FINE, or what it does wrong, and then nothing has changed."""
    at = board.at
    _mark_active(board)
    evicted = fetched = 0
    wrong = FINE
    while evicted < at[EVICTS] and wrong == FINE:
        wrong = _evict(board, board.evicts_N[evicted])
        evicted += wrong == FINE
    while fetched < at[FETCHES] and wrong == FINE:
        wrong = fetch(board, board.fetches_3N[NEW, fetched], board.fetches_3N[VICTIM, fetched])
        fetched += wrong == FINE
    if wrong == FINE:
        wrong = _check_runs(board)
    if wrong != FINE:
        _undo(board, evicted, fetched)
        at[WRONG] = wrong
        return wrong
    board.counts[N_FETCHES] += fetched
    for i in range(evicted):
        _count_eviction(board, board.evicts_N[i])
    for i in range(fetched):
        _count_eviction(board, board.fetches_3N[VICTIM, i])
    board.statuses[at[STATUS]] += 1
    return FINE


@compiled_lean
def apply_copies(board: Board) -> int:
    """The same for copies beside the lanes; those before one that is wrong are good."""
    at = board.at
    _mark_active(board)
    for i in range(at[COPIES]):
        new, victim = board.copies_3W[NEW, i], board.copies_3W[VICTIM, i]
        wrong = fetch(board, new, victim)
        if wrong != FINE:
            at[COPIES], at[WRONG] = i, wrong
            return wrong
        board.counts[N_PREFETCHES] += 1
        board.unused_F[new] = 1
        _count_eviction(board, victim)
    return FINE


@compiled_lean
def fetch(board: Board, new: int, victim: int) -> int:
    """One copy begins, into its victim's slot or a free one; `mark_E` says who is active."""
    at, state_F = board.at, board.state_F
    at[WRONG_AT] = victim
    if victim != FREE_SLOT and _is_active(board, victim):
        return EVICTS_ACTIVE
    at[WRONG_AT] = new
    if state_F[new] != ABSENT:
        return FETCHES_PRESENT
    if victim == FREE_SLOT:
        if at[FREE] < 1:
            return NO_SLOT
        at[FREE] -= 1
        board.slot_F[new] = board.free_S[at[FREE]]
    else:
        at[WRONG_AT] = victim
        if state_F[victim] != RESIDENT:
            return EVICTS_ABSENT
        state_F[victim] = ABSENT
        board.slot_F[new] = board.slot_F[victim]
        board.slot_F[victim] = FREE_SLOT
    state_F[new] = COPYING
    at[UNDER_WAY] += 1
    return FINE


@compiled_lean
def _evict(board: Board, f: int) -> int:
    board.at[WRONG_AT] = f
    if _is_active(board, f):
        return EVICTS_ACTIVE
    if board.state_F[f] != RESIDENT:
        return EVICTS_ABSENT
    board.state_F[f] = ABSENT
    _free_slot_of(board, f)
    return FINE


@compiled_lean
def _free_slot_of(board: Board, f: int) -> None:
    board.free_S[board.at[FREE]] = board.slot_F[f]
    board.slot_F[f] = FREE_SLOT
    board.at[FREE] += 1


@compiled_lean
def _undo(board: Board, evicted: int, fetched: int) -> None:
    """Take back the first changes of a decision, the last one first."""
    at = board.at
    for i in range(fetched - 1, -1, -1):
        new, victim = board.fetches_3N[NEW, i], board.fetches_3N[VICTIM, i]
        board.state_F[new] = ABSENT
        at[UNDER_WAY] -= 1
        if victim == FREE_SLOT:
            _free_slot_of(board, new)
        else:
            board.state_F[victim] = RESIDENT
            board.slot_F[victim] = board.slot_F[new]
            board.slot_F[new] = FREE_SLOT
    for i in range(evicted - 1, -1, -1):
        f = board.evicts_N[i]
        board.state_F[f] = RESIDENT
        at[FREE] -= 1
        board.slot_F[f] = board.free_S[at[FREE]]


@compiled_lean
def _mark_active(board: Board) -> None:
    board.mark_E[:] = 0
    for i in range(board.at[ACTIVE]):
        board.mark_E[board.active_N[i]] = 1


@compiled_lean
def _is_active(board: Board, f: int) -> bool:
    e = f - board.at[LAYER] * board.at[EXPERTS]
    return bool(0 <= e < board.at[EXPERTS] and board.mark_E[e])


@compiled_lean
def _check_runs(board: Board) -> int:
    """Every active expert runs once, and on the GPU only where it is or is on its way."""
    at, first = board.at, board.at[LAYER] * board.at[EXPERTS]
    for i in range(at[RUNS]):
        e = board.runs_4N[EXPERT, i]
        at[WRONG_AT] = first + e
        if not 0 <= e < at[EXPERTS] or board.mark_E[e] != 1:
            return RUNS_OTHERS
        board.mark_E[e] = 2
        if board.runs_4N[LANE, i] == ON_GPU and board.state_F[first + e] == ABSENT:
            return RUNS_ABSENT
    return FINE if at[RUNS] == at[ACTIVE] else RUNS_OTHERS


@compiled_lean
def _count_eviction(board: Board, f: int) -> None:
    if f != FREE_SLOT:
        board.counts[N_EVICTIONS] += 1
        board.counts[N_WASTED] += board.unused_F[f]
        board.unused_F[f] = 0


class Entries(NamedTuple):
    """What a scheduler calls for a policy in Python, with the board's three arrays.

    `plain`: the decision in place of one that failed: nothing is fetched, misses run on the CPU.
    """

    begin: Callable[..., None]
    plan: Callable[..., int]
    plain: Callable[..., int]
    copies: Callable[..., int]


def _entries(stamp: int) -> Entries:
    @compiled_and_kept
    def begin(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        begin_layer(open_board(bytes_B, ints_I, floats_R))

    @compiled_and_kept
    def plan(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> int:
        assert stamp >= 0
        return apply_plan(open_board(bytes_B, ints_I, floats_R))

    @compiled_and_kept
    def plain(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, seconds_4T: FloatArray) -> int:
        assert stamp >= 0
        board = open_board(bytes_B, ints_I, floats_R)
        board.at[RUNS] = board.at[FETCHES] = board.at[EVICTS] = board.at[STATUS] = 0
        misses_on_cpu(board, seconds_4T)
        return apply_plan(board)

    @compiled_and_kept
    def copies(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> int:
        assert stamp >= 0
        return apply_copies(open_board(bytes_B, ints_I, floats_R))

    return Entries(begin, plan, plain, copies)


entries = _entries(source_stamp("hetsched.board", "hetsched.board.contract", "hetsched.board.rows"))
