"""The experts of a GGUF file in rows of the host store: packed as the file has them, where there is a format for that.

Shapes: E experts, R rows = output columns of a stored matrix, C = input columns, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gguf import GGMLQuantizationType

from ..errors import InputError
from ..formats import Format, format_of
from ..packed import Layout, PackedLayout, PackedPiece, Piece, StoredAs, layout_of, packed_layout
from .experts import put_tied
from .gguf_file import Gguf, GgufReader, GgufTensor
from .gguf_names import ExpertSources, expert_sources
from .gguf_numbers import numbers

KIND = GGMLQuantizationType
FORMATS = {
    KIND.Q8_0: "q8_0",
    KIND.Q4_0: "q4_0",
    KIND.Q4_K: "q4_k",
    KIND.Q6_K: "q6_k",
    KIND.MXFP4: "gguf-mxfp4",
    KIND.F16: "fp16",
    KIND.BF16: "bf16",
    KIND.F32: "fp32",
}
PLAIN_KINDS = (KIND.F16, KIND.BF16, KIND.F32)
PLAIN = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class ExpertLayer:
    """One layer's experts: their parameters' names in the model, the tensors [E, R, C] of each, and their rows."""

    module: Any
    names: dict[str, list[str]]
    sources: dict[str, list[GgufTensor]]
    layout: Layout
    joined: str

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return int(self.layout.row_bytes * self.module.num_experts)

    @property
    def unpacked(self) -> list[GgufTensor]:
        """Packed matrices of the file that will not be so here."""
        left = []
        for piece in self.layout.pieces:
            formats = [m.format.name for m in piece.matrices] if isinstance(piece, PackedPiece) else []
            tensors = self.sources[piece.name]
            left += [
                tensor
                for number, tensor in enumerate(tensors)
                if tensor.kind not in PLAIN_KINDS and FORMATS.get(tensor.kind) not in formats[number : number + 1]
            ]
        return left


def plan_layer(tied: list[Any], paths: dict[Any, str], gguf: Gguf, unpack: bool) -> ExpertLayer:
    """Where a layer's experts come from and how they will lie. `tied`: its modules, on meta, which share parameters.

    Those modules stand for packed ones after that. Raises InputError for what the file lacks or has in other shapes.
    """
    module, joined = tied[0], _joined(tied[0])
    found = expert_sources(paths[module], module, gguf)
    sources = {each.parameter: [gguf.tensors[name] for name in each.tensors] for each in found}
    stored = [_stored(module, each, sources[each.parameter], "" if unpack else joined) for each in found]
    layout = packed_layout(stored) if any(each.formats for each in stored) else layout_of(module)
    names = {each.parameter: [f"{paths[one]}.{each.parameter}" for one in tied] for each in found}
    if isinstance(layout, PackedLayout):
        rows = torch.empty((module.num_experts, layout.row_bytes), dtype=torch.uint8, device="meta")
        put_tied(tied, layout, rows)
    return ExpertLayer(module, names, sources, layout, joined)


@torch.no_grad()
def fill_layer(layer: ExpertLayer, reader: GgufReader, advance: Callable[[int], None]) -> torch.Tensor:
    """The layer's rows, uint8 [E, row_bytes], an expert after the other from the file to its place."""
    rows = layer.layout.allocate(layer.module.num_experts)
    for e, row in enumerate(rows):
        for piece in layer.layout.pieces:
            tensors = layer.sources[piece.name]
            if isinstance(piece, PackedPiece):
                _fill_packed(piece, tensors, row, e, reader)
            else:
                _fill_plain(piece, tensors, row, e, reader, layer)
        advance(layer.layout.row_bytes)
    return rows


def _stored(module: Any, sources: ExpertSources, tensors: list[GgufTensor], joined: str) -> StoredAs:
    """How one parameter will lie: in the file's formats; plain where these are its numbers already, or joined is ""."""
    parameter = getattr(module, sources.parameter)
    experts, *shape = parameter.shape
    turned = bool(module.is_transposed) and len(shape) == 2
    rows, *columns = reversed(shape) if turned else shape
    wanted = (experts, rows // len(tensors), *columns)
    for tensor in tensors:
        if tensor.shape != wanted:
            raise InputError(
                f"{tensor.name} is {list(tensor.shape)} in {tensor.file} where the model has {list(wanted)}; its "
                "metadata belong to another model"
            )
    plain = PLAIN.get(parameter.dtype, "")
    formats = [FORMATS.get(tensor.kind, plain) for tensor in tensors]
    plainly = StoredAs(sources.parameter, tuple(shape), parameter.dtype)
    if len(shape) == 1 or not joined or all(name == plain for name in formats):
        return plainly
    made: tuple[Format, ...] = tuple(format_of(name) for name in formats)
    return plainly._replace(formats=made, joined=joined if len(tensors) > 1 else "rows", transposed=turned)


def _fill_packed(piece: PackedPiece, tensors: list[GgufTensor], row: torch.Tensor, e: int, reader: GgufReader) -> None:
    for matrix, tensor in zip(piece.matrices, tensors, strict=True):
        place = row[matrix.begin : matrix.begin + matrix.num_bytes]
        if tensor.kind in FORMATS:
            reader.read(tensor, e * len(place), place)
        else:
            (view,) = matrix.parts(row).values()
            view.copy_(_expert(tensor, e, reader))


def _fill_plain(
    piece: Piece, tensors: list[GgufTensor], row: torch.Tensor, e: int, reader: GgufReader, layer: ExpertLayer
) -> None:
    """A parameter of plain numbers; straight from the file where that has them in one piece after another."""
    bias, turned = len(piece.shape) == 1, bool(layer.module.is_transposed)
    straight = all(PLAIN.get(piece.dtype) == FORMATS.get(tensor.kind) for tensor in tensors)
    if straight and not (turned and not bias) and (layer.joined == "rows" or len(tensors) == 1):
        each = piece.num_bytes // len(tensors)
        for number, tensor in enumerate(tensors):
            begin = piece.begin + number * each
            reader.read(tensor, e * each, row[begin : begin + each])
        return
    parts = [_expert(tensor, e, reader) for tensor in tensors]
    whole = torch.stack(parts, dim=1).flatten(0, 1) if len(parts) > 1 and layer.joined == "turns" else torch.cat(parts)
    piece.of(row).copy_(whole.t() if turned and not bias else whole)


def _expert(tensor: GgufTensor, e: int, reader: GgufReader) -> torch.Tensor:
    """One expert's numbers of a tensor, in fp32."""
    size = tensor.num_bytes // tensor.shape[0]
    packed = torch.empty(size, dtype=torch.uint8)
    reader.read(tensor, e * size, packed)
    return numbers(tensor.kind, packed, tensor.shape[1:])


def _joined(module: Any) -> str:
    """Whether gate's rows lie above up's or in turns with them, by which numbers the module takes together."""
    if not module.has_gate:
        return "rows"
    ones = torch.ones(1, 4)
    other = ones.clone()
    other[0, 1] = 0.5
    with torch.no_grad():
        changed = module._apply_gate(ones) != module._apply_gate(other)
    return "turns" if bool(changed[0, 0]) else "rows"
