"""Tensors of a checkpoint that hold one matrix together: found by their names, unpacked where they are asked for.

A packed matrix goes by the name that the plain one would have, so that transformers' renamings and converters know it.
Shapes: R rows = output columns, C = input columns, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..formats import Format, Shape
from ..formats.gptq import Gptq
from .quantization import Header, Packing

if TYPE_CHECKING:
    from .checkpoint import TensorHeader

OPTIONAL = ("g_idx",)


@dataclass(frozen=True)
class PackedTensor:
    """A matrix, or `stack` of them (0: one alone), in several tensors of a checkpoint, whose names `names` has by part.

    What is no part of the format, as GPTQ's `g_idx`, is among the names to be looked at.
    """

    format: Format
    matrix: Shape
    names: Mapping[str, str]
    file: Path
    num_bytes: int
    stack: int = 0
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As the model has it: [R, C] alone, [E, R, C] or transposed [E, C, R] in a stack."""
        rows, columns = self.matrix
        if not self.stack:
            return rows, columns
        return (self.stack, columns, rows) if self.transposed else (self.stack, rows, columns)

    def check(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Raise InputError where the stored tensors say what their shapes do not show, and what is not served."""
        if isinstance(self.format, Gptq):
            self.format.require_order(parts.get("g_idx"), self.matrix[1])

    def unpacked(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One matrix [R, C] in fp32, or [C, R] where it is one of a transposed stack, from its parts."""
        weights_RC = self.format.unpack(parts, self.matrix, torch.float32)
        return weights_RC.t() if self.stack and self.transposed else weights_RC


class UnpackedSlice:
    """Stands for a tensor that is unpacked, in fp32, when it is indexed, as safetensors reads its own."""

    def __init__(self, packed: PackedTensor, slices: Mapping[str, Any]) -> None:
        self._packed, self._slices = packed, slices

    def __getitem__(self, index: Any) -> torch.Tensor:
        packed = self._packed
        if not packed.stack:
            return packed.unpacked({part: view[...] for part, view in self._slices.items()})[index]
        experts = [{part: view[e : e + 1] for part, view in self._slices.items()} for e in range(packed.stack)]
        return torch.stack([packed.unpacked(parts) for parts in experts])[index]

    def get_shape(self) -> list[int]:
        """Of the plain tensor."""
        return list(self._packed.shape)

    def get_dtype(self) -> str:
        """Of the plain tensor, by safetensors' name."""
        return "F32"


def packed_tensors(tensors: Mapping[str, TensorHeader], packing: Packing | None) -> dict[str, PackedTensor]:
    """The packed matrices among a checkpoint's tensors, by the names that plain ones would have.

    Raises InputError for one of which a part is missing, or has a shape or dtype that the format does not.
    """
    if packing is None:
        return {}
    _, first_end = next(iter(packing.ends.items()))
    found = {}
    for name in tensors:
        if not name.endswith(first_end):
            continue
        stem = name.removesuffix(first_end)
        parts = {part: stem + end for part, end in packing.ends.items() if stem + end in tensors}
        if len(parts) > 1 or not _is_plain(tensors[name]):
            found[f"{stem}weight" if stem.endswith(".") else stem] = _packed(name, parts, tensors, packing)
    return found


def refuse_lone(names: Iterable[str], tensors: Mapping[str, TensorHeader | PackedTensor], packing: Packing) -> None:
    """Raise InputError for a tensor of a packed checkpoint that is of single bytes, and of no packed matrix here."""
    for name in names:
        stored = tensors[name]
        if not isinstance(stored, PackedTensor) and stored.dtype.itemsize == 1:
            dtype = str(stored.dtype).removeprefix("torch.")
            raise InputError(f"{name} is {dtype} {list(stored.shape)}, in no way that {packing.method} is served in")


def _packed(name: str, names: dict[str, str], tensors: Mapping[str, TensorHeader], packing: Packing) -> PackedTensor:
    missing = [part for part in packing.ends if part not in names and part not in OPTIONAL]
    if missing:
        raise InputError(
            f"{name} is packed ({packing.method}) and its {missing[0]} are missing; the checkpoint is incomplete"
        )
    headers = {part: tensors[each] for part, each in names.items()}
    shown = {part: (header.shape, str(header.dtype).removeprefix("torch.")) for part, header in headers.items()}
    found = _matrix(shown, packing)
    if found is None:
        said = ", ".join(f"{part} {dtype} {list(shape)}" for part, (shape, dtype) in shown.items())
        raise InputError(f"{name} is no matrix that {packing.method} packs: {said}; it is of another method")
    laid, shape, stack = found
    parts = [headers[part.name] for part in laid.parts(shape)]
    num_bytes = sum(header.num_bytes for header in parts)
    return PackedTensor(laid, shape, names, parts[0].file, num_bytes, stack, packing.transposed)


def _matrix(shown: Mapping[str, Header], packing: Packing) -> tuple[Format, Shape, int] | None:
    """Format, shape and number of stacked matrices (0: one alone); None for tensors that are no such thing."""
    try:
        laid, shape = packing.matrix(shown)
        parts = laid.parts(shape)
    except (LookupError, ValueError, ZeroDivisionError):  # of a dtype, of dimensions
        return None
    stack = shown[parts[0].name][0][: -len(parts[0].shape)]
    fits = len(stack) < 2 and all(shown[part.name] == ((*stack, *part.shape), part.dtype) for part in parts)
    return (laid, shape, stack[0] if stack else 0) if fits else None


def _is_plain(header: TensorHeader) -> bool:
    """Whether a tensor that stands alone may be weights as they are."""
    return header.dtype.is_floating_point and header.dtype.itemsize > 1
