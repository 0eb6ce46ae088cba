"""Weights of a GGUF file's linear maps outside the experts, kept packed where kernels read their format.

Shapes: N rows = output columns, K input columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..cpu_kernels.packed.matrix import serves
from ..formats import Format, format_of
from ..packed import PackedWeight, packed_parameter
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


def put_linears(
    model: Any, formats: Mapping[str, Format], tensors: Mapping[str, GgufTensor], reader: GgufReader
) -> None:
    """Let those parameters of a model be the file's bytes."""
    for name, format_ in formats.items():
        tensor, module = tensors[name], model.get_submodule(name.rpartition(".")[0])
        held = torch.empty(tensor.num_bytes, dtype=torch.uint8)
        reader.read(tensor, 0, held)
        shape = (tensor.shape[0], tensor.shape[1])
        module._parameters["weight"] = packed_parameter(held, format_, shape, module.weight.dtype)


def linear_bytes(formats: Mapping[str, Format], tensors: Mapping[str, GgufTensor]) -> int:
    """Bytes that they take."""
    return sum(tensors[name].num_bytes for name in formats)


def packed_weights(model: Any) -> list[str]:
    """Names of a model's packed parameters outside of its experts."""
    return [name for name, parameter in model.named_parameters() if isinstance(parameter, PackedWeight)]
