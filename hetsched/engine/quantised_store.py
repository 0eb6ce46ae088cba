"""QuantisedStore: beside every expert's exact weights, the lossy copy that goes to the GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..packed import Layout
from ..tiers import Precision
from ..types import ExpertId
from .host_store import HostStore
from .quantised_layout import QuantisedLayout


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
        self._copied_layouts: dict[int, QuantisedLayout] = {}

    def adopt(self, layer: int, module: Any) -> Layout:
        """Move a module's expert parameters in, and make their copies."""
        super().adopt(layer, module)
        layout = QuantisedLayout.quantising(module, self.precision)
        layout = next((known for known in self._copied_layouts.values() if known == layout), layout)
        self._copied_rows[layer] = torch.zeros((module.num_experts, layout.row_bytes), dtype=torch.uint8)
        self._copied_layouts[layer] = layout
        self.refresh(layer)
        return layout

    def refresh(self, layer: int) -> None:
        """Make the copies of a layer's experts anew."""
        rows, layout = self._copied_rows[layer], self._copied_layouts[layer]

        def fill(expert: int) -> None:
            layout.fill(rows[expert], super(QuantisedStore, self).weights(ExpertId(layer, expert)))

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(fill, range(len(rows))))

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
