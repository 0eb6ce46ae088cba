"""What unpacking in registers is: a few whole blocks of a row a step.

A step gives its weights as vectors of 16 floats, or of 64 bytes, in whatever order of columns is cheapest; `columns`
says which, and the activations are laid out in that order once a call (see `records`). Shapes: C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from ...formats import Shape
from ...types import IntArray
from .lanes import LANES, Lanes

FOUR_EACH = [lane // 4 for lane in range(LANES)]
VECTOR_BYTES = 64


class Group(NamedTuple):
    """Vectors that share a scale and what is added behind it, vectors too; None where there is none.

    Of bytes: 16 words each, whose lane's scale is that of its four bytes. Products take what is added from a group
    without vectors, the step's last: `totals` times the activations' own totals in the same lanes.
    """

    vectors: Sequence[Any]
    scale: Any = None
    shift: Any = None
    totals: Any = None


@dataclass(frozen=True, eq=False)
class Step:
    """So many bytes of blocks and of scales make a step; `columns[i]`: the column of its weight number i.

    Of bytes: -1 where there is no column; `groups` of equal size. `totals`: lanes in which the activations of each 32
    columns, added and with their sign turned, are wanted behind everything else.
    """

    columns: IntArray
    block_bytes: int
    scale_bytes: int
    write: Callable[[Lanes, Any, Any], list[Group]]
    groups: int = 1
    totals: tuple[int, ...] = ()

    @cached_property
    def width(self) -> int:
        """Columns of a step."""
        return int((self.columns >= 0).sum())

    def vectors(self, rounded: bool) -> int:
        """Vectors of its activations."""
        return len(self.columns) * (1 if rounded else 4) // VECTOR_BYTES

    def record_bytes(self, rounded: bool) -> int:
        """Bytes of its activations; rounded ones have a vector of scales more a group."""
        return self.totals_at(rounded) + (VECTOR_BYTES if self.totals else 0)

    def totals_at(self, rounded: bool) -> int:
        """Where their totals are."""
        return VECTOR_BYTES * (self.vectors(rounded) + (self.groups if rounded else 0))


@dataclass(frozen=True, eq=False)
class Unpacker:
    """The steps of a row, wide ones first, and which parts they read; `rows_a_scale`: rows that share scales.

    `rounded`: for activations rounded to bytes; weights are bytes then, `less` above what they mean, at most `most`.
    There is one of a name.
    """

    name: str
    steps: tuple[Step, ...]
    blocks: str
    scales: str = ""
    rows_a_scale: int = 1
    rounded: bool = False
    less: int = 0
    most: int = 127

    def taken(self, columns: int) -> list[tuple[Step, int]] | None:
        """The steps of a row, each with its first column; None where they do not come out even."""
        return _taken(self, columns)

    def order(self, columns: int) -> IntArray | None:
        """Which column each weight of a row is, as the steps take them; None where they do not come out even."""
        found = self.taken(columns)
        return None if found is None else np.concatenate([step.columns + first for step, first in found])

    def serves(self, shape: Shape) -> bool:
        """Whether it can read a matrix of this shape."""
        return self.taken(shape[1]) is not None


@cache
def _taken(unpacker: Unpacker, columns: int) -> list[tuple[Step, int]] | None:
    taken, found = 0, []
    for step in unpacker.steps:
        while columns - taken >= step.width:
            found.append((step, taken))
            taken += step.width
    return found if taken == columns and found else None


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
