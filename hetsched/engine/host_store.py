"""HostStore: every expert's weights in host memory, contiguous per expert, so that a fetch is one copy.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ..accelerators.base import Accelerator
from ..accelerators.host_memory import HostMemory
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

    @property
    def num_bytes(self) -> int:
        """Bytes of one expert's parameters, without padding."""
        return sum(piece.num_bytes for piece in self.pieces)

    def views(self, row: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """One expert's parameters as views of its bytes (uint8, at least row_bytes long)."""
        return {
            piece.name: row[piece.begin : piece.begin + piece.num_bytes].view(piece.dtype).view(piece.shape)
            for piece in self.pieces
        }

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
        return {
            piece.name: rows[:, piece.begin : piece.begin + piece.num_bytes]
            .view(piece.dtype)
            .view(len(rows), *piece.shape)
            for piece in self.pieces
        }

    def rows_of(self, module: Any) -> torch.Tensor | None:
        """The rows that a module's parameters are views of already (see hetsched.load), else None."""
        first = getattr(module, self.pieces[0].name).data
        storage, size = first.untyped_storage(), (module.num_experts, self.row_bytes)
        if first.storage_offset() or storage.nbytes() != prod(size):
            return None
        rows = torch.empty(0, dtype=torch.uint8)
        rows.set_(storage, 0, size, (self.row_bytes, 1))
        for name, view in self.stacked(rows).items():
            found = getattr(module, name).data
            if found.data_ptr() != view.data_ptr() or found.stride() != view.stride():
                return None
        return rows


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
        self._row_E: dict[int, tuple[torch.Tensor, ...]] = {}  # views of each of them, which take long to make
        self._layouts: dict[int, Layout] = {}
        self._views: dict[ExpertId, Mapping[str, torch.Tensor]] = {}

    def adopt(self, layer: int, module: Any) -> Layout:
        """Move a module's expert parameters in. Needs room for one layer beside the model.

        Parameters that lie in such rows already, as hetsched.load leaves them, stay where they are.

        Raises InputError for parameters that hold no plain numbers (on meta, sharded, quantised).
        """
        layout = self._known(Layout.of(module))
        for name in (piece.name for piece in layout.pieces):
            refuse_unreadable(module, name)
        rows = layout.rows_of(module)
        if rows is None:
            rows = layout.allocate(module.num_experts)
        self._layouts[layer] = layout
        for e in range(module.num_experts):
            self._views[ExpertId(layer, e)] = layout.views(rows[e])
        self._row_E[layer] = rows.unbind(0)
        self._rows[layer] = rows  # before anything moves: give_back knows of it, whatever comes in between
        for name, stacked in layout.stacked(rows).items():
            parameter = getattr(module, name)
            if parameter.data_ptr() != stacked.data_ptr():
                stacked.copy_(parameter.data)
                parameter.data = stacked
        return layout

    def _known(self, layout: Layout) -> Layout:
        """One object for all equal layouts."""
        return next((known for known in self._layouts.values() if known == layout), layout)

    def share(self, layer: int, module: Any) -> None:
        """Let a module whose experts are tied to a stored layer's look at the same bytes.

        Raises InputError where the two hold different numbers.
        """
        for name, stored in self._layouts[layer].stacked(self._rows[layer]).items():
            parameter = getattr(module, name)
            if parameter.data_ptr() == stored.data_ptr():
                continue
            refuse_unreadable(module, name)
            if parameter.dtype != stored.dtype or not torch.equal(parameter.data, stored):
                raise InputError(
                    f"{type(module).__name__} was tied to layer {layer}'s experts at attach and now differs in "
                    f"{name}; call model.tie_weights() before running, or attach after loading"
                )
            parameter.data = stored

    def holds(self, layer: int) -> bool:
        """Whether a layer's experts are stored."""
        return layer in self._rows

    def refresh(self, layer: int) -> None:
        """The weights of a layer have been written to: bring up to date what was made of them."""

    def give_back(self, layer: int, *modules: Any) -> None:
        """Restore parameters as tensors of their own, bit for bit; modules that shared them share them again.

        What looks elsewhere by now is left alone, and a layer that is not stored, too.
        """
        if not self.holds(layer):
            return
        rows = self._rows[layer]
        for name, stacked in self._layouts[layer].stacked(rows).items():
            parameters = [getattr(module, name) for module in modules]
            looking = [parameter for parameter in parameters if parameter.data_ptr() == stacked.data_ptr()]
            if looking:
                own = stacked.clone(memory_format=torch.contiguous_format)
                for parameter in looking:
                    parameter.data = own
        del self._rows[layer], self._row_E[layer], self._layouts[layer]
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
        return self._row_E[expert.layer][expert.expert]

    def weights(self, expert: ExpertId) -> Mapping[str, torch.Tensor]:
        """One expert's parameters in host memory."""
        return self._views[expert]

    def pinned_bytes(self, is_pinned: Callable[[torch.Tensor], bool] = torch.Tensor.is_pinned) -> int:
        """Bytes of copied_bytes that a device can copy from directly; all others are pageable."""
        return sum(self.rows(layer).numel() for layer in self._rows if is_pinned(self.rows(layer)))

    @property
    def copied_bytes(self) -> int:
        """Bytes of what a device would copy from: rows() of every layer."""
        return sum(self.rows(layer).numel() for layer in self._rows)

    @property
    def num_bytes(self) -> int:
        """Bytes of all experts stored."""
        return sum(rows.numel() for rows in self._rows.values())


def pinning_stats(store: HostStore, accelerator: Accelerator) -> dict[str, Any]:
    """`pageable_share` of the experts' host memory, 0 to 1, and `pageable_reason`, "" where nothing is pageable.

    Copies from pageable memory go through pinned chunks, with one CPU thread's help.
    """
    total_bytes = store.copied_bytes
    if isinstance(accelerator, HostMemory) or not total_bytes:
        reason = f"{accelerator.name}: no device copies from host memory" if total_bytes else "no expert is stored yet"
        return {"pageable_share": 1.0, "pageable_reason": reason}
    share = 1 - store.pinned_bytes(getattr(accelerator, "is_pinned", torch.Tensor.is_pinned)) / total_bytes
    reason = "; ".join(accelerator.notes) or "the device does not say" if share else ""
    return {"pageable_share": share, "pageable_reason": reason}
