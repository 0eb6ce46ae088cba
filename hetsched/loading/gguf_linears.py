"""Weights of a GGUF file's linear maps outside the experts, kept packed where kernels read their format.

Shapes: N rows = output columns, K input columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..cpu_kernels.packed.matrix import serves
from ..formats import Format, format_of
from ..packed import packed_parameter
from .gguf_experts import FORMATS, PLAIN_KINDS
from .gguf_file import GgufReader, GgufTensor
from .gguf_numbers import PERMUTED


def packed_linears(twin: Any, tensors: Mapping[str, GgufTensor], architecture: str) -> dict[str, Format]:
    """Which of a model's parameters are to stay packed, by name; `tensors`: where each parameter comes from."""
    if architecture in PERMUTED:
        return {}
    found = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if kind != "weight" or tensor.kind in PLAIN_KINDS or tensor.kind not in FORMATS or len(tensor.shape) != 2:
            continue
        module, format_ = twin.get_submodule(stem), format_of(FORMATS[tensor.kind])
        shape = (tensor.shape[0], tensor.shape[1])
        if type(module) is torch.nn.Linear and module.weight.shape == shape and serves(format_, shape):
            found[name] = format_
    return found


def read_linear(tensor: GgufTensor, format_: Format, dtype: torch.dtype, reader: GgufReader) -> torch.nn.Parameter:
    """Such a parameter: the file's bytes."""
    held = torch.empty(tensor.num_bytes, dtype=torch.uint8)
    reader.read(tensor, 0, held)
    return packed_parameter(held, format_, (tensor.shape[0], tensor.shape[1]), dtype)
