"""Activations as kernels read them: a record of bytes a token, step by step in the order of the weights.

Exact ones are fp32. Rounded ones are signed bytes, each 32 columns with a scale (the largest becomes 127, as in
llama.cpp's Q8_0); behind a step's bytes come sixteen scales for each group. Some formats want the total of each 32
columns behind that, as it is rounded, with its sign turned. Shapes: K columns, B blocks of 32.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from ...types import IntArray
from .steps import VECTOR_BYTES, Unpacker

BLOCK = 32  # columns that are rounded together


class Record(NamedTuple):
    """`put_K`: where each column goes, in floats or, rounded, in bytes; in floats `scale_K`: where its scale goes, and
    `total_B`: where a block's total goes, -1 for nowhere. `how`: addresses of all and whether it is rounded, as stages
    read them. `is_zeroed`: there are places that nothing is put to, and that must be zeros."""

    num_bytes: int
    put_K: IntArray
    scale_K: IntArray
    total_B: IntArray
    how: tuple[int, int, int, int]
    is_zeroed: bool


@cache
def record_of(unpacker: Unpacker, columns: int) -> Record:
    """The record of a token for rows of so many columns, which the unpacker must serve."""
    steps = unpacker.taken(columns)
    assert steps is not None
    put_K, scale_K = np.zeros((2, columns), np.int64)
    total_B = np.full(-(-columns // BLOCK), -1, np.int64)
    begin, item = 0, 1 if unpacker.rounded else 4
    for step, first in steps:
        places = np.flatnonzero(step.columns >= 0)
        named = first + step.columns[places]
        put_K[named] = begin // item + places
        if unpacker.rounded:
            vectors = step.vectors(rounded=True)
            group, lane = places // VECTOR_BYTES // (vectors // step.groups), places % VECTOR_BYTES // 4
            scale_K[named] = (begin + VECTOR_BYTES * (vectors + group)) // 4 + lane
        if step.totals:
            at = (begin + step.totals_at(unpacker.rounded)) // 4
            total_B[first // BLOCK : first // BLOCK + len(step.totals)] = [at + lane for lane in step.totals]
        begin += step.record_bytes(unpacker.rounded)
    how = put_K.ctypes.data, scale_K.ctypes.data, total_B.ctypes.data, int(unpacker.rounded)
    is_zeroed = unpacker.rounded or bool((total_B >= 0).any())
    return Record(begin, put_K, scale_K, total_B, how, is_zeroed)
