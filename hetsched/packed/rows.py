"""Layout: where each parameter of an expert lies in its row of bytes.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch

from ..errors import InputError

ALIGN = 64  # bytes; a cache line, and what torch's own allocations have
TRAITS = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "num_experts")


def parameter_names(module: Any) -> list[str]:
    """Names of the stacked parameters [E, ...] that one expert's weights are slices of.

    Raises InputError naming what is missing.
    """
    missing = [trait for trait in TRAITS if not hasattr(module, trait)]
    up = "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"
    names = [up, "down_proj"]
    if getattr(module, "has_bias", False):
        names += [f"{name}_bias" for name in names]
    missing += [name for name in names if getattr(module, name, None) is None]
    if missing:
        raise InputError(f"{type(module).__name__} lacks {', '.join(missing)}; this expert class is not supported")
    return names


@dataclass(frozen=True)
class Piece:
    """One parameter of an expert inside its row of bytes."""

    name: str
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @cached_property
    def num_bytes(self) -> int:
        """Bytes without padding."""
        return prod(self.shape) * self.dtype.itemsize

    def of(self, row: torch.Tensor) -> torch.Tensor:
        """The parameter in a row, uint8 at least as long; a view."""
        return row[self.begin : self.begin + self.num_bytes].view(self.dtype).view(self.shape)

    def stacked(self, rows: torch.Tensor) -> torch.Tensor:
        """The parameters [E, ...] in all rows, uint8 [E, row_bytes]; a view."""
        held = rows[:, self.begin : self.begin + self.num_bytes]
        return held.view(self.dtype).view(len(rows), *self.shape)


@dataclass(frozen=True)
class Layout:
    """Where each parameter of one expert lies in its row."""

    pieces: tuple[Piece, ...]
    row_bytes: int

    @property
    def is_packed(self) -> bool:
        """Whether there are weights that have to be unpacked to be numbers."""
        return False

    @property
    def num_bytes(self) -> int:
        """Bytes of one expert's parameters, without padding."""
        return sum(piece.num_bytes for piece in self.pieces)

    def views(self, row: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """One expert's parameters as views of its bytes (uint8, at least row_bytes long)."""
        return {piece.name: piece.of(row) for piece in self.pieces}

    def allocate(self, num_experts: int) -> torch.Tensor:
        """Rows for so many experts, uint8 [E, row_bytes], their padding zeroed and the rest undefined."""
        rows = torch.empty((num_experts, self.row_bytes), dtype=torch.uint8)
        ends = [piece.begin + piece.num_bytes for piece in self.pieces]
        begins = [*(piece.begin for piece in self.pieces[1:]), self.row_bytes]
        for end, begin in zip(ends, begins, strict=True):
            rows[:, end:begin] = 0
        return rows

    def stacked(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The module's parameters [E, ...] as views of all rows."""
        return {piece.name: piece.stacked(rows) for piece in self.pieces}

    def rows_of(self, module: Any) -> torch.Tensor | None:
        """The rows that a module's parameters are views of already (see hetsched.load), else None."""
        first = getattr(module, self.pieces[0].name).data
        storage, size = first.untyped_storage(), (module.num_experts, self.row_bytes)
        if first.storage_offset() or storage.nbytes() != prod(size):
            return None
        rows = torch.empty(0, dtype=torch.uint8)
        rows.set_(storage, 0, size, (self.row_bytes, 1))
        return rows if self.are_in(rows, module) else None

    def are_in(self, rows: torch.Tensor, module: Any) -> bool:
        """Whether a module's parameters are views of these rows."""
        for name, view in self.stacked(rows).items():
            found = getattr(module, name).data
            if found.data_ptr() != view.data_ptr() or found.stride() != view.stride():
                return False
        return True


def layout_of(module: Any) -> Layout:
    """The layout of an expert module's rows: its own where its weights are packed, else one after another."""
    pieces, begin = [], 0
    for name in parameter_names(module):
        parameter = getattr(module, name)
        packed: Layout | None = getattr(parameter, "layout_of_rows", None)
        if packed is not None:
            return packed
        piece = Piece(name, begin, tuple(parameter.shape[1:]), parameter.dtype)
        pieces.append(piece)
        begin += -(-piece.num_bytes // ALIGN) * ALIGN
    return Layout(tuple(pieces), begin)
