"""Experts' matrices that go into their rows as the checkpoint packs them.

That is so where all experts of a layer have the same formats and where transformers' conversion only stacks experts,
puts matrices one above the other, or transposes: rows of bytes can be put together so, and not otherwise.
Shapes: E experts, R rows = output columns, C = input columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose

from ..packed import PackedPiece, StoredAs
from .checkpoint import Reader
from .packed_tensors import PackedTensor
from .sources import Sources

_STACKED, _ABOVE = (MergeModulelist, 0), (Concatenate, 1)


@dataclass(frozen=True)
class PackedSource:
    """Where the matrices of a parameter are, one above the other: of each the tensors, one an expert or one stack."""

    matrices: list[list[PackedTensor]]
    transposed: bool

    def stored_as(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> StoredAs:
        """How one expert's parameter of this shape is to be stored."""
        formats = tuple(tensors[0].format for tensors in self.matrices)
        return StoredAs(name, shape, dtype, formats, transposed=self.transposed)


def packed_source(sources: Sources, packed: Mapping[str, PackedTensor], shape: tuple[int, ...]) -> PackedSource | None:
    """The matrices of a parameter [E, ...] of this shape; None where it has to be unpacked, or is plain."""
    names = _in_order(sources)
    if not names or any(name not in packed for each in names for name in each):
        return None
    tensors = [[packed[name] for name in each] for each in names]
    first = tensors[0][0]
    if any(
        (t.format, t.matrix, t.stack) != (found[0].format, first.matrix, first.stack)
        for found in tensors
        for t in found
    ):
        return None
    if sources.converter is None:
        return PackedSource(tensors, first.transposed) if first.stack and first.shape == shape else None
    told = [(type(operation), *_dims(operation)) for operation in sources.converter.operations]
    transposed = told[-1:] == [(Transpose, 1, 2)]
    if first.stack or told[: len(told) - transposed] not in ([_STACKED], [_STACKED, _ABOVE]):
        return None
    rows, columns = len(tensors) * first.matrix[0], first.matrix[1]
    made = (len(tensors[0]), *((columns, rows) if transposed else (rows, columns)))
    return PackedSource(tensors, transposed) if made == shape else None


def fill_packed(
    source: PackedSource, piece: PackedPiece, rows: torch.Tensor, reader: Reader, advance: Callable[[int], None]
) -> None:
    """Copy the parts of all experts' matrices into rows, uint8 [E, row_bytes]. Raises InputError for unserved ones."""
    for expert, row in enumerate(rows):
        for matrix, tensors in zip(piece.matrices, source.matrices, strict=True):
            stacked = bool(tensors[0].stack)
            tensor = tensors[0 if stacked else expert]
            stored = reader.parts(tensor, expert if stacked else None)
            tensor.check(stored)
            for name, view in matrix.parts(row).items():
                view.copy_(stored[name].view(view.shape))
        advance(piece.num_bytes)
        reader.release()


def _in_order(sources: Sources) -> list[list[str]]:
    """Names by matrix, in the order in which a conversion puts them together."""
    patterns = sources.names if sources.converter is None else sources.converter.source_patterns
    return [sources.names[pattern] for pattern in patterns if pattern in sources.names]


def _dims(operation: object) -> list[int]:
    return [int(getattr(operation, name)) for name in ("dim", "dim0", "dim1") if hasattr(operation, name)]
