"""Where a packed matrix is, as kernels read it.

Shapes: N rows = output columns, K input columns, F ffn, H hidden.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch

from ...errors import InputError
from ...formats import Format, Parts, Shape
from .steps import Unpacker
from .unpackers import unpacker_of

NO_NUMBER = 0x7F  # e4m3's, without its sign


class PackedMatrix(NamedTuple):
    """A matrix [N, K], or rows of one. `held`: the tensors, kept alive. Addresses, and bytes from row to row.

    `unpacker`: for activations as they are; `reader` has the one for rounded ones where there is one.
    """

    held: dict[str, torch.Tensor]
    format: Format
    unpacker: Unpacker
    shape: Shape
    blocks: int
    scales: int
    row_bytes: int
    scale_row_bytes: int

    def reader(self, rounded: bool) -> Unpacker:
        """What reads it for activations as they are, or rounded where it can."""
        other = unpacker_of(self.format, rounded=True) if rounded else None
        return other if other is not None and other.serves(self.shape) else self.unpacker

    def every(self, count: int, first: int) -> PackedMatrix:
        """Rows first, first + count ...: gpt-oss stores gate and up in turns. For scales of one row alone."""
        shape = (self.shape[0] // count, self.shape[1])
        blocks, scales = self.blocks + first * self.row_bytes, self.scales + first * self.scale_row_bytes
        return self._replace(
            shape=shape,
            blocks=blocks,
            scales=scales,
            row_bytes=count * self.row_bytes,
            scale_row_bytes=count * self.scale_row_bytes,
        )

    def rows(self, first: int, last: int) -> PackedMatrix:
        """Rows of a stack, such as gate's above up's; they must begin with a block of scales."""
        share = self.format.block[0]
        if first % share:
            raise InputError(f"{self.format.name} shares scales among {share} rows: none can begin at row {first}")
        blocks, scales = self.blocks + first * self.row_bytes, self.scales + first // share * self.scale_row_bytes
        return self._replace(shape=(last - first, self.shape[1]), blocks=blocks, scales=scales)


Biases: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ExpertMatrices(NamedTuple):
    """One expert: gate and up [F, H], of one format, down [H, F]; biases fp32 [F], [F], [H] where there are any."""

    gate: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix
    biases: Biases | None = None

    @property
    def matrices(self) -> tuple[PackedMatrix, PackedMatrix, PackedMatrix]:
        """Gate, up and down."""
        return self.gate, self.up, self.down


def serves(format_: Format, shape: Shape, rounded: bool = False) -> bool:
    """Whether packed kernels read matrices of this format and shape; else they are unpacked to be multiplied.

    `rounded`: for activations rounded to bytes.
    """
    unpacker = unpacker_of(format_, rounded)
    return unpacker is not None and unpacker.serves(shape)


def packed_matrix(format_: Format, parts: Parts, shape: Shape) -> PackedMatrix:
    """Where the parts of a matrix are; no copy where they lie whole.

    Raises InputError for what no packed kernel reads: see `serves`; and FP8 that is no number, which would be taken
    for one.
    """
    unpacker = unpacker_of(format_)
    if unpacker is None or not unpacker.serves(shape):
        raise InputError(f"no packed kernel reads {format_.name} matrices {list(shape)}; unpack them to be multiplied")
    held = {part.name: parts[part.name].contiguous() for part in format_.parts(shape)}
    require_numbers(format_, held)
    blocks, scales = _place(held[unpacker.blocks], shape[0]), (0, 0)
    if unpacker.scales:
        scales = _place(held[unpacker.scales], held[unpacker.scales].shape[0])
    return PackedMatrix(held, format_, unpacker, shape, blocks[0], scales[0], blocks[1], scales[1])


def require_numbers(format_: Format, parts: Parts) -> None:
    """Raise InputError for FP8 that is no number."""
    if format_.name == "fp8-block" and int((parts["weights"].view(torch.uint8) << 1).max()) == 2 * NO_NUMBER:
        raise InputError("an fp8-block matrix holds weights that are no numbers; check the checkpoint")


def _place(tensor: torch.Tensor, rows: int) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel() * tensor.itemsize // rows
