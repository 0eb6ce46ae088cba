"""Activations as kernels read them: a record of bytes a token, step by step in the order of the weights.

Exact ones are fp32. Rounded ones are signed bytes, each 32 columns with a scale (the largest becomes 127, as in
llama.cpp's Q8_0); behind a step's bytes come, for each group, sixteen scales, and sixteen sums of a lane's four bytes
in all vectors times `-less`, from which the whole numbers of a group begin. Shapes: K columns.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from ...types import IntArray
from .steps import VECTOR_BYTES, Unpacker

BLOCK = 32  # columns that are rounded together


class Record(NamedTuple):
    """`put_K`: where each column goes, in floats or, rounded, in bytes; `scale_K`: where its scale goes, in floats.

    The sum of its lane is a vector behind the scale. `factor`: of the sums.
    """

    num_bytes: int
    put_K: IntArray
    scale_K: IntArray
    rounded: bool
    factor: int


@cache
def record_of(unpacker: Unpacker, columns: int) -> Record:
    """The record of a token for rows of so many columns, which the unpacker must serve."""
    steps = unpacker.taken(columns)
    assert steps is not None
    put_K, scale_K = np.zeros((2, columns), np.int64)
    begin, item = 0, 1 if unpacker.rounded else 4
    for step, first in steps:
        places = np.flatnonzero(step.columns >= 0)
        named = first + step.columns[places]
        put_K[named] = begin // item + places
        if unpacker.rounded:
            vectors = step.vectors(rounded=True)
            group, lane = places // VECTOR_BYTES // (vectors // step.groups), places % VECTOR_BYTES // 4
            scale_K[named] = (begin + VECTOR_BYTES * (vectors + 2 * group)) // 4 + lane
        begin += step.record_bytes(unpacker.rounded)
    return Record(begin, put_K, scale_K, unpacker.rounded, -unpacker.less if unpacker.less else 1)
