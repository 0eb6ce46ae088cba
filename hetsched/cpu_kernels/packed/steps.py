"""What unpacking in registers is: a few whole blocks of a row a step.

A step gives its weights as vectors of 16, in whatever order of columns is cheapest; `columns` says which, and the
activations are laid out in that order once a call. Shapes: C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...formats import Shape
from ...types import IntArray
from .lanes import LANES, Lanes

FOUR_EACH = [lane // 4 for lane in range(LANES)]


class Group(NamedTuple):
    """Vectors that share a scale, a vector too; None where there is none."""

    vectors: Sequence[Any]
    scale: Any = None


@dataclass(frozen=True, eq=False)
class Step:
    """So many bytes of blocks and of scales make a step; `columns[i]`: the column of its weight number i."""

    columns: IntArray
    block_bytes: int
    scale_bytes: int
    write: Callable[[Lanes, Any, Any], list[Group]]


@dataclass(frozen=True, eq=False)
class Unpacker:
    """The steps of a row, wide ones first, and which parts they read; `rows_a_scale`: rows that share scales.

    There is one of a name.
    """

    name: str
    steps: tuple[Step, ...]
    blocks: str
    scales: str = ""
    rows_a_scale: int = 1

    def order(self, columns: int) -> IntArray | None:
        """Which column each weight of a row is, as the steps take them; None where they do not come out even."""
        taken, parts = 0, []
        for step in self.steps:
            width = len(step.columns)
            while columns - taken >= width:
                parts.append(step.columns + taken)
                taken += width
        return np.concatenate(parts) if taken == columns and parts else None

    def serves(self, shape: Shape) -> bool:
        """Whether it can read a matrix of this shape."""
        return self.order(shape[1]) is not None


def in_turn(count: int) -> IntArray:
    """Columns as they come."""
    return np.arange(count, dtype=np.int64)


def by_nibble() -> IntArray:
    """Columns of 16 words of eight nibbles, two of one byte next to each other, a nibble of all words at a time."""
    return np.ascontiguousarray(np.arange(128).reshape(LANES, 8).T).reshape(-1)


def by_nibble_in_halves(block: int) -> IntArray:
    """The same where the high nibbles of a block's bytes are its second half."""
    words = np.arange(128).reshape(-1, 2, block // 8, 4)  # block, half, word, byte
    return np.ascontiguousarray(words.transpose(3, 1, 0, 2)).reshape(-1)
