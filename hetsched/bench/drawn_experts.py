"""Random experts, plain or packed, on any device, and what torch makes of them: what kernels are checked with.

Shapes: E experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from ..accelerators.cuda.activation import Activation, reference
from ..accelerators.cuda.experts import Reading, reading_of
from ..errors import InputError
from ..formats import format_of
from ..packed import PackedLayout, StoredAs, packed_layout

NAMES = ("gate_up_proj", "down_proj")


class DrawnExperts:
    """Gated experts in `rows`, uint8 [E, row_bytes], on a device; `dtype`: of their arithmetic.

    `format_`: of both matrices; None: plain. Raises InputError for widths that the format cannot store.
    """

    def __init__(
        self, dtype: torch.dtype, format_: str | None, hidden: int, ffn: int, experts: int, device: torch.device
    ) -> None:
        self._dtype, self._formats = dtype, (format_of(format_),) if format_ else ()
        self._shapes = {"gate_up_proj": (2 * ffn, hidden), "down_proj": (hidden, ffn)}
        layout = self._layout(dtype)
        rows = layout.allocate(experts)
        for row in rows:
            layout.fill(row, {name: torch.randn(size) / size[1] ** 0.5 for name, size in self._shapes.items()})
        self.rows = rows.to(device)

    def weights(self, exact: bool = False) -> list[Mapping[str, torch.Tensor]]:
        """Each expert's, packed ones unpacked at every look; `exact`: in fp32, where the dtype does not round them."""
        layout = self._layout(torch.float32 if exact and self._formats else self._dtype)
        return [layout.views(row) for row in self.rows]

    def reading(self) -> Reading:
        """How the kernels read them. Raises InputError where they cannot."""
        found = reading_of(self.weights()[0], self._dtype, turns=False)
        if found is None:
            named = self._formats[0].name if self._formats else "plain"
            raise InputError(f"no kernel reads {named} matrices {list(self._shapes.values())}; choose other widths")
        return found

    def _layout(self, dtype: torch.dtype) -> PackedLayout:
        return packed_layout([StoredAs(name, size, dtype, self._formats) for name, size in self._shapes.items()])


def summed(
    weights: Sequence[Mapping[str, torch.Tensor]], hidden_TH: torch.Tensor, weight_E: torch.Tensor
) -> torch.Tensor:
    """One token's experts with SwiGLU by torch, in the dtype of `hidden_TH`: [1, H]."""
    out_TH = torch.zeros_like(hidden_TH)
    for expert, router_weight in zip(weights, weight_E, strict=True):
        up, down = (expert[name].to(hidden_TH.dtype) for name in NAMES)
        inner_TF = reference(Activation(0), F.linear(hidden_TH, up))
        out_TH += (F.linear(inner_TF, down) * router_weight).to(hidden_TH.dtype)
    return out_TH
