"""The ways to compute packed experts on the CPU, by the names under which they are chosen (see engine.cpu_packed)."""

from __future__ import annotations

import torch

from .torch_kernels import TorchLinear


class PackedWay(TorchLinear):
    """`in_registers`: weights are unpacked where they are multiplied; else before torch multiplies. `rounded`:
    activations are rounded to signed bytes, which is lossy. Weights that are unpacked already meet torch's product.
    """

    def __init__(self, name: str, in_registers: bool, rounded: bool = False) -> None:
        super().__init__(torch.bfloat16)
        self.name, self.in_registers, self.rounded = name, in_registers, rounded
        self.lossless = not rounded


UNPACK = PackedWay("unpack", in_registers=False)
PACKED = PackedWay("packed", in_registers=True)
PACKED_INT8 = PackedWay("packed-int8", in_registers=True, rounded=True)
LOSSLESS_WAYS = (UNPACK, PACKED)  # simplest first
WAYS = {way.name: way for way in (*LOSSLESS_WAYS, PACKED_INT8)}
UNMEASURED = "packed@1+unpack@32"
