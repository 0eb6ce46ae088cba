"""The numbers of GGUF tensors, by gguf-py's own unpacking, and the model's dense parameters made of them.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

from ..errors import InputError
from .gguf_file import GgufReader, GgufTensor

Undone: TypeAlias = Callable[[torch.Tensor, str], torch.Tensor]

CHUNK = 4 << 20  # numbers that are unpacked at a time: 16 MiB in fp32
PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
# Architectures whose query and key weights llama.cpp's converter permutes.
PERMUTED = ("llama",)


def numbers(kind: GGMLQuantizationType, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The fp32 numbers of bytes, uint8. Raises InputError for a type that gguf-py does not unpack."""
    if kind in PLAIN:
        return packed.view(PLAIN[kind]).view(*shape).float()
    try:
        return torch.from_numpy(dequantize(packed.numpy(), kind)).view(*shape)
    except NotImplementedError as error:
        raise InputError(f"gguf-py does not unpack {kind.name}; update gguf, or take a file of another type") from error


class DenseTensor:
    """Stands for a parameter: its numbers are read when it is indexed, as safetensors reads its own.

    Whatever the file has in fp32 stays so for transformers to convert; the rest comes in `dtype`, rounded once.
    `undone`: what turns llama.cpp's order of rows into transformers'.
    """

    def __init__(
        self, tensor: GgufTensor, shape: Sequence[int], dtype: torch.dtype, reader: GgufReader, undone: Undone
    ) -> None:
        self._tensor, self._shape, self._reader, self._undone = tensor, tuple(shape), reader, undone
        self._dtype = torch.float32 if tensor.kind == GGMLQuantizationType.F32 else dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor = self._tensor
        weights, size = GGML_QUANT_SIZES[tensor.kind]
        columns = tensor.shape[-1]
        rows, row_bytes = prod(tensor.shape) // columns, columns // weights * size
        found = torch.empty((rows, columns), dtype=self._dtype)
        step = max(1, CHUNK // columns)
        for begin in range(0, rows, step):
            part = found[begin : begin + step]
            packed = torch.empty(len(part) * row_bytes, dtype=torch.uint8)
            self._reader.read(tensor, begin * row_bytes, packed)
            part.copy_(numbers(tensor.kind, packed, part.shape))
        return self._undone(found.view(tensor.shape), tensor.name).reshape(self._shape)[index]

    def get_shape(self) -> list[int]:
        """As the model has it."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """By safetensors' name."""
        return {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[self._dtype]


class KeysValues:
    """Latent attention's second projection, of which llama.cpp stores keys [h, C, k] and values [h, v, C].

    Shapes: h heads, k and v numbers of a key and a value, C of what both are made of.
    """

    def __init__(self, keys: DenseTensor, values: DenseTensor, shape: Sequence[int]) -> None:
        self._keys, self._values, self._shape = keys, values, tuple(shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        keys_hCk, values_hvC = self._keys[...], self._values[...]
        return torch.cat((keys_hCk.transpose(1, 2), values_hvC), dim=1).reshape(self._shape)[index]

    def get_shape(self) -> list[int]:
        """As the model has it."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """By safetensors' name."""
        return self._keys.get_dtype()


def undone_for(architecture: str, config: Any) -> Undone:
    """What undoes llama.cpp's permuting of attention weights, by transformers' own processor."""
    if architecture not in PERMUTED:
        return lambda weights, _: weights
    heads = {name: getattr(config, name) for name in ("num_attention_heads", "num_key_value_heads")}
    processor = TENSOR_PROCESSORS[architecture](heads)
    return lambda weights, name: processor.process(weights, name).weights
