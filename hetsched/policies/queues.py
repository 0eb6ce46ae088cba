"""Queues of experts in arrays: doubly linked, each expert in one of them at most.

Shapes: F all experts flat, Q queues.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import compiled
from ..types import IntArray


class Queues(NamedTuple):
    """`newer_F`, `older_F`: neighbours, -1 at the ends. `queue_F`: an expert's queue or -1. `size_Q`: members."""

    newer_F: IntArray
    older_F: IntArray
    queue_F: IntArray
    newest_Q: IntArray
    oldest_Q: IntArray
    size_Q: IntArray


def empty_queues(flat: int, queues: int) -> Queues:
    """Queues without members."""
    newer_F, older_F, queue_F = (np.full(flat, -1, np.int64) for _ in range(3))
    newest_Q, oldest_Q = np.full(queues, -1, np.int64), np.full(queues, -1, np.int64)
    return Queues(newer_F, older_F, queue_F, newest_Q, oldest_Q, np.zeros(queues, np.int64))


@compiled
def unlink(queues: Queues, f: int) -> None:
    """Take an expert out of the queue that it is in, if any."""
    q = queues.queue_F[f]
    if q < 0:
        return
    newer, older = queues.newer_F[f], queues.older_F[f]
    if newer < 0:
        queues.newest_Q[q] = older
    else:
        queues.older_F[newer] = older
    if older < 0:
        queues.oldest_Q[q] = newer
    else:
        queues.newer_F[older] = newer
    queues.queue_F[f] = -1
    queues.size_Q[q] -= 1


@compiled
def push(queues: Queues, q: int, f: int) -> None:
    """Make an expert the newest of a queue, wherever it was before."""
    unlink(queues, f)
    newest = queues.newest_Q[q]
    queues.older_F[f], queues.newer_F[f], queues.queue_F[f] = newest, -1, q
    if newest < 0:
        queues.oldest_Q[q] = f
    else:
        queues.newer_F[newest] = f
    queues.newest_Q[q] = f
    queues.size_Q[q] += 1
