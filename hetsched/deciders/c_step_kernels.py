"""Kernels between mail and board: a layer's demand in, its decision and its copies out.

Shapes as in mail.py; F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..board import (
    ACTIVE,
    ARRIVED,
    CHUNK_S,
    COPIES,
    COPY_S,
    COPYING,
    EVICTS,
    EXPERTS,
    FETCHES,
    FLYING,
    LANE,
    LINK_FREE_S,
    NEW,
    ON_GPU,
    RUNS,
    STATUS,
    STEP,
    WRONG,
    Board,
    Bytes,
)
from ..board import COUNT as RUN_COUNT
from ..board import EXPERT as RUN_EXPERT
from ..board import LAYER as AT_LAYER
from ..board import NEW_REQUEST as AT_NEW_REQUEST
from ..board import PHASE as AT_PHASE
from ..board import TOKENS as AT_TOKENS
from ..board.contract import FINE, apply_plan, drop, open_board
from ..board.demand import list_demand
from ..board.rows import misses_on_cpu
from ..jit import borrowed, compiled_and_kept, compiled_lean, source_stamp
from ..jit.shared import observed, publish
from ..types import FloatArray, IntArray
from . import mail as post
from .mail import CopyQueue, Mail


@compiled_lean
def open_mail(arrays: Any) -> Mail:
    """The mail's arrays by name."""
    return Mail(
        borrowed(arrays[0]),
        borrowed(arrays[1]),
        borrowed(arrays[2]),
        borrowed(arrays[3]),
        borrowed(arrays[4]),
        borrowed(arrays[5]),
        borrowed(arrays[6]),
    )


@compiled_lean
def open_queue(arrays: Any) -> CopyQueue:
    """The queue's arrays by name."""
    return CopyQueue(
        borrowed(arrays[0]),
        borrowed(arrays[1]),
        borrowed(arrays[2]),
        borrowed(arrays[3]),
        borrowed(arrays[4]),
        borrowed(arrays[5]),
        borrowed(arrays[6]),
    )


@compiled_lean
def take_demand(board: Board, letter: Mail) -> None:
    """What the router asks for, experts ascending; a layer that does not follow the last one begins a new step."""
    at, tokens = board.at, letter.asked_4[post.TOKENS]
    at[STEP] += letter.asked_4[post.LAYER] <= at[AT_LAYER]
    at[AT_LAYER], at[AT_TOKENS] = letter.asked_4[post.LAYER], tokens
    at[AT_PHASE], at[AT_NEW_REQUEST] = letter.asked_4[post.PHASE], letter.asked_4[post.NEW_REQUEST]
    list_demand(board, letter.ids_TK[:tokens], at[EXPERTS])


@compiled_lean
def note_link(board: Board, queue: CopyQueue, between_layers: bool) -> None:
    """How the queue's copies stand, as a link would say; between layers, what failed is absent again.

    Within one, a kernel may still be about to read the slot. Nobody looks at a clock here: a copy under way is taken to
    have all of its time before it.
    """
    count, kept, arrived, urgent = queue.count_1[0], 0, 0, 0
    for i in range(count):
        slot = queue.line_S[i]
        f, state = queue.expert_S[slot], observed(queue.state_S, slot)
        if state == post.WAITING or (state == post.FAILED and not between_layers):
            queue.line_S[kept] = slot
            board.flying_F[kept], board.left_s_F[kept] = f, board.machine[COPY_S] * (kept + 1)
            kept += 1
            urgent += queue.urgent_S[slot]
            continue
        queue.state_S[slot] = post.IDLE
        if state == post.ARRIVED:
            board.arrived_F[arrived] = f
            arrived += 1
        else:
            drop(board, f)
    queue.count_1[0] = kept
    board.at[FLYING], board.at[ARRIVED] = kept, arrived
    free_s = board.machine[COPY_S] * urgent
    if kept and not queue.urgent_S[queue.line_S[0]]:
        free_s += board.machine[CHUNK_S]
    board.now[LINK_FREE_S] = free_s


@compiled_lean
def ask_for(board: Board, queue: CopyQueue, f: int, urgent: bool) -> None:
    """Post one copy, into the slot that the expert has."""
    slot, posted = board.slot_F[f], queue.ends_2[post.POSTED]
    queue.expert_S[slot], queue.urgent_S[slot], queue.state_S[slot] = f, urgent, post.WAITING
    queue.ring_S[posted % len(queue.ring_S)] = slot
    publish(queue.ends_2, post.POSTED, posted + 1)
    i = queue.count_1[0]
    queue.count_1[0] = i + 1
    while urgent and i > 0 and not queue.urgent_S[queue.line_S[i - 1]]:
        queue.line_S[i] = queue.line_S[i - 1]
        i -= 1
    queue.line_S[i] = slot


@compiled_lean
def want(queue: CopyQueue, slot: int) -> None:
    """A copy under way is demanded now: it goes before all that are not."""
    if queue.urgent_S[slot]:
        return
    queue.urgent_S[slot] = 1
    i = 0
    while queue.line_S[i] != slot:
        i += 1
    while i > 0 and not queue.urgent_S[queue.line_S[i - 1]]:
        queue.line_S[i] = queue.line_S[i - 1]
        i -= 1
    queue.line_S[i] = slot


@compiled_lean
def tell_row(board: Board, letter: Mail, i: int, first_pair: int) -> int:
    """The i-th run of the plan, and its pairs after the first so many; how many there are then."""
    e, on_gpu = board.runs_4N[RUN_EXPERT, i], board.runs_4N[LANE, i] == ON_GPU
    f, pair = board.at[AT_LAYER] * board.at[EXPERTS] + e, first_pair
    letter.rows_5N[post.EXPERT, i], letter.rows_5N[post.LANE, i] = e, board.runs_4N[LANE, i]
    letter.rows_5N[post.SLOT, i] = board.slot_F[f] if on_gpu else -1
    letter.rows_5N[post.COUNT, i] = board.runs_4N[RUN_COUNT, i]
    letter.rows_5N[post.AWAITS, i] = on_gpu and board.state_F[f] == COPYING
    for k in range(letter.ids_TK.shape[1]):
        for t in range(board.at[AT_TOKENS]):
            if letter.ids_TK[t, k] == e:
                letter.token_P[pair], letter.weight_P[pair] = t, letter.weights_TK[t, k]
                pair += 1
    return pair


@compiled_lean
def tell_plan(board: Board, letter: Mail, queue: CopyQueue) -> None:
    """The plan's rows and its copies."""
    first, pairs, on_gpu = board.at[AT_LAYER] * board.at[EXPERTS], 0, 0
    for i in range(board.at[RUNS]):
        f = first + board.runs_4N[RUN_EXPERT, i]
        if board.runs_4N[LANE, i] == ON_GPU:
            on_gpu += 1
            slot = board.slot_F[f]
            if board.state_F[f] == COPYING and queue.state_S[slot] != post.IDLE and queue.expert_S[slot] == f:
                want(queue, slot)
    for i in range(board.at[FETCHES]):
        ask_for(board, queue, board.fetches_3N[NEW, i], True)
    for i in range(board.at[RUNS]):
        pairs = tell_row(board, letter, i, pairs)
    letter.told_4[post.ROWS], letter.told_4[post.ON_GPU], letter.told_4[post.PAIRS] = board.at[RUNS], on_gpu, pairs


@compiled_lean
def fall_back(board: Board, seconds_4T: FloatArray) -> None:
    """In place of a decision that the contract refused: nothing moves, misses run on the CPU."""
    board.at[RUNS] = board.at[FETCHES] = board.at[EVICTS] = board.at[STATUS] = 0
    misses_on_cpu(board, seconds_4T)
    apply_plan(board)


class Letters(NamedTuple):
    """What comes before and after the compiled calls of a policy, each with the board's three arrays.

    receive(mail, queue), then the step, then deliver(seconds_4T, mail, queue); look(queue), then the look ahead, then
    send_ahead(queue).
    """

    receive: Any
    deliver: Any
    look: Any
    send_ahead: Any


def _letters(stamp: int) -> Letters:
    @compiled_and_kept
    def receive(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, mail: Any, queue: Any) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit
        board = open_board(bytes_B, ints_I, floats_R)
        take_demand(board, open_mail(mail))
        note_link(board, open_queue(queue), True)

    @compiled_and_kept
    def deliver(
        bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, seconds_4T: FloatArray, mail: Any, queue: Any
    ) -> None:
        assert stamp >= 0
        board, letter = open_board(bytes_B, ints_I, floats_R), open_mail(mail)
        wrong = board.at[WRONG] != FINE or board.at[RUNS] != board.at[ACTIVE]
        if wrong:
            fall_back(board, seconds_4T)
        letter.told_4[post.FELL_BACK] = wrong
        tell_plan(board, letter, open_queue(queue))

    @compiled_and_kept
    def look(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, queue: Any) -> None:
        assert stamp >= 0
        note_link(open_board(bytes_B, ints_I, floats_R), open_queue(queue), False)

    @compiled_and_kept
    def send_ahead(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, queue: Any) -> None:
        assert stamp >= 0
        board, line = open_board(bytes_B, ints_I, floats_R), open_queue(queue)
        for i in range(board.at[COPIES]):
            ask_for(board, line, board.copies_3W[NEW, i], False)

    return Letters(receive, deliver, look, send_ahead)


SOURCES = (
    "hetsched.board",
    "hetsched.board.contract",
    "hetsched.board.demand",
    "hetsched.board.rows",
    "hetsched.deciders.c_step_kernels",
    "hetsched.deciders.mail",
    "hetsched.jit.shared",
)
letters = _letters(source_stamp(*SOURCES))
