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
from .gguf_file import Gguf, GgufReader, GgufTensor
from .gguf_numbers import PERMUTED
from .gguf_theirs import is_theirs


def packed_linears(
    twin: Any, gguf: Gguf, sources: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[GgufTensor, Format]]:
    """Which of a model's parameters are to stay packed, by name; `sources`: the file's tensors of each parameter."""
    if gguf.architecture in PERMUTED or is_theirs(gguf.architecture):
        return {}
    found = {}
    for name, names in sources.items():
        stem, _, kind = name.rpartition(".")
        tensor = gguf.tensors[names[0]]
        if len(names) > 1 or kind != "weight" or tensor.kind in PLAIN_KINDS or tensor.kind not in FORMATS:
            continue
        module, format_ = twin.get_submodule(stem), format_of(FORMATS[tensor.kind])
        same = type(module) is torch.nn.Linear and tensor.shape == module.weight.shape
        if same and serves(format_, (tensor.shape[0], tensor.shape[1])):
            found[name] = tensor, format_
    return found


def read_linear(tensor: GgufTensor, format_: Format, dtype: torch.dtype, reader: GgufReader) -> torch.nn.Parameter:
    """Such a parameter: the file's bytes."""
    held = torch.empty(tensor.num_bytes, dtype=torch.uint8)
    reader.read(tensor, 0, held)
    return packed_parameter(held, format_, (tensor.shape[0], tensor.shape[1]), dtype)
