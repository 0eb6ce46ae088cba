"""HostStore: every expert's weights in host memory, contiguous per expert, so that a fetch is one copy.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ..errors import InputError
from ..types import ExpertId
from .expert_ffn import parameter_names

ALIGN = 64  # bytes; a cache line, and what torch's own allocations have


@dataclass(frozen=True)
class Piece:
    """One parameter of an expert inside its row of bytes."""

    name: str
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes without padding."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """Where each parameter of one expert lies in its row."""

    pieces: tuple[Piece, ...]
    row_bytes: int

    @classmethod
    def of(cls, module: Any) -> Layout:
        """The layout of an expert module's rows."""
        pieces, begin = [], 0
        for name in parameter_names(module):
            parameter = getattr(module, name)
            piece = Piece(name, begin, tuple(parameter.shape[1:]), parameter.dtype)
            pieces.append(piece)
            begin += -(-piece.num_bytes // ALIGN) * ALIGN
        return cls(tuple(pieces), begin)

    def views(self, row: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """One expert's parameters as views of its bytes (uint8, at least row_bytes long)."""
        return {
            piece.name: row[piece.begin : piece.begin + piece.num_bytes].view(piece.dtype).view(piece.shape)
            for piece in self.pieces
        }


def refuse_unreadable(module: Any, name: str) -> None:
    """Raise InputError where a parameter is not an ordinary tensor with its numbers in memory."""
    parameter = getattr(module, name)
    if parameter.is_meta:
        raise InputError(f"{name} of {type(module).__name__} is on meta; load the model's weights before running it")
    if type(parameter.data) is not torch.Tensor:
        kind = type(parameter.data).__name__
        raise InputError(f"{name} of {type(module).__name__} is a {kind}; load the model unsharded and unquantised")


class HostStore:
    """Expert weights by layer. While a module is stored, its parameters are views into the store, not copies."""

    def __init__(self) -> None:
        self._rows: dict[int, torch.Tensor] = {}
        self._layouts: dict[int, Layout] = {}
        self._views: dict[ExpertId, Mapping[str, torch.Tensor]] = {}

    def adopt(self, layer: int, module: Any) -> Layout:
        """Move a module's expert parameters in. Needs room for one layer beside the model.

        Raises InputError for parameters that hold no plain numbers (on meta, sharded, quantised).
        """
        layout = Layout.of(module)
        for name in (piece.name for piece in layout.pieces):
            refuse_unreadable(module, name)
        rows = torch.zeros((module.num_experts, layout.row_bytes), dtype=torch.uint8)
        for piece in layout.pieces:
            parameter = getattr(module, piece.name)
            stacked = rows[:, piece.begin : piece.begin + piece.num_bytes].view(piece.dtype)
            stacked = stacked.view(module.num_experts, *piece.shape)
            stacked.copy_(parameter.data)
            parameter.data = stacked
        self._rows[layer], self._layouts[layer] = rows, layout
        for e in range(module.num_experts):
            self._views[ExpertId(layer, e)] = layout.views(rows[e])
        return layout

    def share(self, layer: int, module: Any) -> None:
        """Let a module whose experts are tied to a stored layer's look at the same bytes.

        Raises InputError where the two hold different numbers.
        """
        rows, pieces = self._rows[layer], self._layouts[layer].pieces
        for piece in pieces:
            parameter = getattr(module, piece.name)
            stored = rows[:, piece.begin : piece.begin + piece.num_bytes].view(piece.dtype)
            stored = stored.view(len(rows), *piece.shape)
            if parameter.data_ptr() == stored.data_ptr():
                continue
            refuse_unreadable(module, piece.name)
            if parameter.dtype != stored.dtype or not torch.equal(parameter.data, stored):
                raise InputError(
                    f"{type(module).__name__} was tied to layer {layer}'s experts at attach and now differs in "
                    f"{piece.name}; call model.tie_weights() before running, or attach after loading"
                )
            parameter.data = stored

    def holds(self, layer: int) -> bool:
        """Whether a layer's experts are stored."""
        return layer in self._rows

    def give_back(self, layer: int, module: Any) -> None:
        """Restore a module's parameters as tensors of their own, bit for bit."""
        for piece in self._layouts.pop(layer).pieces:
            parameter = getattr(module, piece.name)
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        rows = self._rows.pop(layer)
        for e in range(len(rows)):
            del self._views[ExpertId(layer, e)]

    def layout(self, layer: int) -> Layout:
        """Layout of a layer's rows."""
        return self._layouts[layer]

    def rows(self, layer: int) -> torch.Tensor:
        """All experts of a layer, uint8 [E, row_bytes]: what an accelerator pins."""
        return self._rows[layer]

    def row(self, expert: ExpertId) -> torch.Tensor:
        """One expert's bytes, uint8 [row_bytes]."""
        return self._rows[expert.layer][expert.expert]

    def weights(self, expert: ExpertId) -> Mapping[str, torch.Tensor]:
        """One expert's parameters in host memory."""
        return self._views[expert]

    @property
    def num_bytes(self) -> int:
        """Bytes of all experts stored."""
        return sum(rows.numel() for rows in self._rows.values())
