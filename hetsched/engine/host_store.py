"""HostStore: every expert's weights in host memory, contiguous per expert, so that a fetch is one copy.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..accelerators.base import Accelerator
from ..accelerators.host_memory import HostMemory
from ..errors import InputError
from ..packed import Layout, PackedStack, layout_of
from ..types import ExpertId


def refuse_unreadable(module: Any, name: str) -> None:
    """Raise InputError where a parameter is not an ordinary tensor with its numbers in memory."""
    parameter = getattr(module, name)
    if parameter.is_meta:
        raise InputError(f"{name} of {type(module).__name__} is on meta; load the model's weights before running it")
    if type(parameter.data) not in (torch.Tensor, PackedStack):
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
        layout = self._known(layout_of(module))
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

        Packed ones were in rows before, and stay. What looks elsewhere by now is left alone, and a layer that is not
        stored, too.
        """
        if not self.holds(layer):
            return
        rows, layout = self._rows[layer], self._layouts[layer]
        for name, stacked in () if layout.is_packed else layout.stacked(rows).items():
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
