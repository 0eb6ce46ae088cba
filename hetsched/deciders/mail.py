"""Mail: memory that a device and the compiled step share, and the queue of copies that a thread of its own serves.

On a real device this is pinned memory: its kernels write a layer's router ids into the mail and read what was decided
from it, and nothing of Python stands between.

Shapes: T tokens at most, K top-k, N experts of a layer, P = T * K pairs of a token and an expert, S slots (at least 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import Bytes
from ..types import Float32Array, IntArray

Make = Callable[[tuple[int, ...], Any], npt.NDArray[Any]]  # zeros of a shape and dtype, where the device sees them

LAYER, TOKENS, PHASE, NEW_REQUEST = range(4)  # places in `asked_4`
ROWS, ON_GPU, PAIRS, FELL_BACK = range(4)  # in `told_4`; the last: 1 where a plain decision stands in for a wrong one
EXPERT, LANE, SLOT, COUNT, AWAITS = range(5)  # rows of `rows_5N`
POSTED, TAKEN = range(2)  # places in `ends_2`
IDLE, WAITING, ARRIVED, FAILED = range(4)  # of `state_S`


class Mail(NamedTuple):
    """One layer's question and answer.

    Written by the device: `asked_4` (layer, tokens, phase, whether a request begins), `ids_TK`, `weights_TK` of the
    first so many tokens; an id that no expert has is nobody's. Read by it: `told_4` (rows, how many of them are on the
    GPU, pairs); `rows_5N` in the order of the plan, the GPU's first as decided: expert, lane, slot (-1: none), tokens,
    whether the slot's copy has yet to arrive; `token_P` and `weight_P` of all rows one after the other, an expert's by
    choice, then token.
    """

    asked_4: IntArray
    ids_TK: IntArray
    weights_TK: Float32Array
    told_4: IntArray
    rows_5N: IntArray
    token_P: IntArray
    weight_P: Float32Array


class CopyQueue(NamedTuple):
    """Copies asked for, in a ring, and how each slot's stands.

    A slot waits for one copy at a time, so the ring of S places is never full. The step writes `ring_S`, the slots in
    order, then `ends_2[POSTED]`; `expert_S` (flat) and `urgent_S`, which may be set later too, for each slot. Whoever
    copies writes `ends_2[TAKEN]` and `state_S`; a row that awaits its copy may be read once that is not WAITING, and
    must not be where it is FAILED, which it stays until the next layer. `line_S`, the first `count_1` of it: slots
    under way, urgent ones first; the step's own.
    """

    ring_S: IntArray
    ends_2: IntArray
    expert_S: IntArray
    urgent_S: Bytes
    state_S: Bytes
    line_S: IntArray
    count_1: IntArray


def new_mail(tokens: int, top_k: int, experts: int, make: Make = np.zeros) -> Mail:
    """An empty one, for at most so many tokens."""
    pairs = tokens * top_k
    return Mail(
        make((4,), np.int64),
        make((tokens, top_k), np.int64),
        make((tokens, top_k), np.float32),
        make((4,), np.int64),
        make((5, experts), np.int64),
        make((pairs,), np.int64),
        make((pairs,), np.float32),
    )


def new_queue(slots: int, make: Make = np.zeros) -> CopyQueue:
    """One on which nothing waits."""
    shape = (max(1, slots),)
    return CopyQueue(
        make(shape, np.int64),
        make((2,), np.int64),
        make(shape, np.int64),
        make(shape, np.uint8),
        make(shape, np.uint8),
        make(shape, np.int64),
        make((1,), np.int64),
    )


class CopyServer:
    """The other end of a CopyQueue, for a thread that copies. Only one thread may use it."""

    def __init__(self, queue: CopyQueue) -> None:
        self._queue = queue
        self._waiting: list[int] = []

    def take(self) -> tuple[int, int] | None:
        """The slot to fill next and its expert (flat): the longest asked for of those that are urgent, else of all."""
        queue, ring = self._queue, len(self._queue.ring_S)
        taken, posted = queue.ends_2.tolist()[::-1]
        self._waiting += [int(queue.ring_S[at % ring]) for at in range(taken, posted)]
        queue.ends_2[TAKEN] = posted
        if not self._waiting:
            return None
        slot = next((slot for slot in self._waiting if queue.urgent_S[slot]), self._waiting[0])
        self._waiting.remove(slot)
        return slot, int(queue.expert_S[slot])

    def end(self, slot: int, arrived: bool = True) -> None:
        """The slot's copy has wholly arrived, or never will."""
        self._queue.state_S[slot] = ARRIVED if arrived else FAILED
