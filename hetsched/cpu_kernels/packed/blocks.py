"""Rows of packed matrices that torch multiplies, some at a time: which, where they are unpacked to, and in what dtype.

Shapes: T tokens, K input columns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch

from .lanes import multiplies_bf16
from .matrix import PackedMatrix
from .steps import Unpacker

BLOCK_BYTES = 8 << 20  # of weights unpacked at a time
_ROOM = threading.local()


def multiplied_in(dtype: torch.dtype) -> torch.dtype:
    """What activations of a dtype and weights are multiplied in: bf16 in itself, as in the unpacked model, where the
    CPU has products of it; else fp32."""
    return dtype if dtype is torch.bfloat16 and multiplies_bf16() else torch.float32


def arranged(input_TK: torch.Tensor, unpacker: Unpacker) -> torch.Tensor:
    """Activations in the unpacker's order."""
    return input_TK.detach().index_select(1, torch.from_numpy(unpacker.order(input_TK.shape[1])))


def blocks(matrices: Sequence[PackedMatrix], dtype: torch.dtype) -> Iterator[list[tuple[PackedMatrix, range]]]:
    """Rows of matrices below each other that fit into a block together."""
    left = height = max(BLOCK_BYTES // dtype.itemsize // matrices[0].shape[1], 1)
    some: list[tuple[PackedMatrix, range]] = []
    for matrix in matrices:
        begin, rows = 0, matrix.shape[0]
        while begin < rows:
            end = min(begin + left, rows)
            some.append((matrix, range(begin, end)))
            begin, left = end, left - (end - begin)
            if not left:
                yield some
                some, left = [], height
    if some:
        yield some


def room(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Where a block is unpacked to, [rows, K]: the same memory at every call of a thread, since fresh pages cost more
    than what is written to them."""
    held: torch.Tensor | None = getattr(_ROOM, "bytes", None)
    size = max(rows * columns * dtype.itemsize, BLOCK_BYTES)
    if held is None or len(held) < size:
        _ROOM.bytes = held = torch.empty(size, dtype=torch.uint8)
    return held[: rows * columns * dtype.itemsize].view(dtype).view(rows, columns)
