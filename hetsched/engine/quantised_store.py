"""QuantisedStore: beside every expert's exact weights, the lossy copy that goes to the GPU: a row in another format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..packed import Layout, PackedLayout, StoredAs, layout_of, packed_layout
from ..tiers import Precision
from ..types import ExpertId
from .host_store import HostStore


def copied_layout(module: Any, precision: Precision) -> PackedLayout:
    """The rows of an expert module's copies: matrices in the format, those that it cannot store and biases exact."""
    format_, transposed, stored = precision.format, bool(module.is_transposed), []
    for piece in layout_of(module).pieces:
        rows_columns = piece.shape[::-1] if transposed else piece.shape
        packs = len(rows_columns) == 2 and precision.stores((rows_columns[0], rows_columns[1]))
        formats = (format_,) if packs else ()
        stored.append(StoredAs(piece.name, piece.shape, piece.dtype, formats, transposed=transposed))
    return packed_layout(stored)


class QuantisedStore(HostStore):
    """A HostStore of which `layout`, `rows` and `row`, what is copied, are the copies'; `weights` stay exact.

    Takes the copies' bytes of host memory besides the experts'. `copied_runs` and `exact_runs` count experts computed
    from either: an executor asks for a layout on the GPU lane, for weights on the CPU lane, once for each.
    """

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.copied_runs = self.exact_runs = 0
        self._copied_rows: dict[int, torch.Tensor] = {}
        self._copied_layouts: dict[int, PackedLayout] = {}

    def adopt(self, layer: int, module: Any) -> Layout:
        """Move a module's expert parameters in, and make their copies."""
        super().adopt(layer, module)
        layout = copied_layout(module, self.precision)
        layout = next((known for known in self._copied_layouts.values() if known == layout), layout)
        self._copied_rows[layer] = layout.allocate(module.num_experts)
        self._copied_layouts[layer] = layout
        self.refresh(layer)
        return layout

    def refresh(self, layer: int) -> None:
        """Make the copies of a layer's experts anew."""
        rows, layout = self._copied_rows[layer], self._copied_layouts[layer]
        for expert, row in enumerate(rows):
            layout.fill(row, super().weights(ExpertId(layer, expert)))

    def give_back(self, layer: int, *modules: Any) -> None:
        """Restore the parameters, and drop the copies."""
        super().give_back(layer, *modules)
        self._copied_rows.pop(layer, None)
        self._copied_layouts.pop(layer, None)

    @property
    def num_bytes(self) -> int:
        """Bytes of host memory: the experts and their copies."""
        return super().num_bytes + self.copied_bytes

    def layout(self, layer: int) -> Layout:
        """Layout of a layer's copies."""
        self.copied_runs += 1
        return self._copied_layouts[layer]

    def weights(self, expert: ExpertId) -> Mapping[str, torch.Tensor]:
        """One expert's exact parameters in host memory."""
        self.exact_runs += 1
        return super().weights(expert)

    def rows(self, layer: int) -> torch.Tensor:
        """All copies of a layer, uint8 [E, row_bytes]: what an accelerator pins."""
        return self._copied_rows[layer]

    def row(self, expert: ExpertId) -> torch.Tensor:
        """One copy's bytes, uint8 [row_bytes]."""
        return self._copied_rows[expert.layer][expert.expert]
