"""Experts' matrices that go into their rows as the checkpoint packs them.

That is so where all experts of a layer have the same formats, and where transformers' conversion does no more than
stack them and put their matrices one above the other: rows of bytes can be put together so.
Shapes: E experts, R rows = output columns, C = input columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers.core_model_loading import Concatenate, MergeModulelist

from ..packed import PackedPiece, StoredAs
from .checkpoint import Reader
from .packed_tensors import PackedTensor
from .sources import Sources

TOGETHER = ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])  # operations and dimensions


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
    shapes = {(each.matrix, each.stack) for found in tensors for each in found}
    if len(shapes) > 1 or any(each.format != found[0].format for found in tensors for each in found):
        return None
    if sources.converter is None:
        return PackedSource(tensors, first.transposed) if first.stack and first.shape == shape else None
    told = [(type(operation), getattr(operation, "dim", None)) for operation in sources.converter.operations]
    if first.stack or told not in TOGETHER:
        return None
    made = (len(tensors[0]), len(tensors) * first.matrix[0], first.matrix[1])
    return PackedSource(tensors, transposed=False) if made == shape else None


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
