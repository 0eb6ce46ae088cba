"""PackedLayout: an expert's row whose weight matrices are in formats of hetsched.formats.

Shapes: R rows = output columns of a product, C columns = input columns, F ffn, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..errors import InputError
from ..formats import Format, Parts, Shape, spec_of, views_of
from .rows import ALIGN, Layout, Piece
from .stack import PackedStack

JOINED = ("rows", "turns")


class Matrix(NamedTuple):
    """A stored matrix [R, C], whatever way round the module has it; its parts begin at byte `begin` of the row."""

    format: Format
    shape: Shape
    begin: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes in the row."""
        return self.format.num_bytes(self.shape)

    def parts(self, row: torch.Tensor) -> Parts:
        """Its parts in a row of bytes; views."""
        return views_of(row[self.begin : self.begin + self.num_bytes], self.format, self.shape)


class StoredAs(NamedTuple):
    """How one parameter of an expert is to be stored: `shape` that of one expert, `dtype` that of its arithmetic.

    `formats`: of its matrices, which have equal shapes; none: as it is. `joined`: "rows", one matrix above the next; or
    "turns", a row of each in turn. `transposed`: the module has the parameter as [C, R].
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    formats: tuple[Format, ...] = ()
    joined: str = "rows"
    transposed: bool = False


@dataclass(frozen=True)
class PackedPiece(Piece):
    """A parameter that is unpacked to be numbers; see StoredAs."""

    matrices: tuple[Matrix, ...] = ()
    joined: str = "rows"
    transposed: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes in the row, from its first matrix to the end of the last."""
        last = self.matrices[-1]
        return last.begin + last.num_bytes - self.begin

    def of(self, row: torch.Tensor) -> torch.Tensor:
        """The parameter, unpacked anew: contiguous, rounded once to its dtype."""
        found = [m.format.unpack(m.parts(row), m.shape, self.dtype) for m in self.matrices]
        if self.joined == "turns":
            whole = torch.stack(found, dim=1).flatten(0, 1)
        else:
            whole = found[0] if len(found) == 1 else torch.cat(found)
        return whole.t().contiguous() if self.transposed else whole

    def stacked(self, rows: torch.Tensor) -> torch.Tensor:
        """The parameters of all experts as one that unpacks those that are looked at."""
        raise NotImplementedError("a packed parameter knows its layout; ask that")

    def fill(self, row: torch.Tensor, weights: torch.Tensor) -> None:
        """Write weights, shaped as the parameter, into a row: the nearest that the formats can store."""
        whole = weights.t() if self.transposed else weights
        count = len(self.matrices)
        each = [whole[i::count] for i in range(count)] if self.joined == "turns" else whole.chunk(count)
        for matrix, part in zip(self.matrices, each, strict=True):
            packed = matrix.format.pack(part.contiguous())
            for name, view in matrix.parts(row).items():
                view.copy_(packed[name].view(view.shape))


@dataclass(frozen=True)
class PackedLayout(Layout):
    """Plain and packed pieces, one after another. Made by packed_layout()."""

    @property
    def is_packed(self) -> bool:
        """Whether there are weights that have to be unpacked to be numbers."""
        return True

    @property
    def format_name(self) -> str:
        """The format of most bytes."""
        bytes_by: dict[str, int] = {}
        for matrix in self.matrices:
            name = spec_of(matrix.format)
            bytes_by[name] = bytes_by.get(name, 0) + matrix.num_bytes
        return max(bytes_by, key=lambda name: bytes_by[name])

    def fill(self, row: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> None:
        """Write one expert's weights into its row: the nearest that the formats can store."""
        for piece in self.pieces:
            if isinstance(piece, PackedPiece):
                piece.fill(row, weights[piece.name])
            else:
                piece.of(row).copy_(weights[piece.name])

    @property
    def matrices(self) -> list[Matrix]:
        """All packed matrices, in order."""
        return [matrix for piece in self.pieces if isinstance(piece, PackedPiece) for matrix in piece.matrices]

    def views(self, row: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """One expert's parameters where the row is; packed ones are unpacked at every look."""
        return PackedWeights(self, row)

    def allocate(self, num_experts: int) -> torch.Tensor:
        """Rows for so many experts, uint8 [E, row_bytes], zeroed."""
        return torch.zeros((num_experts, self.row_bytes), dtype=torch.uint8)

    def stacked(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The module's parameters [E, ...]: packed ones as PackedStack, the others as views."""
        return {
            piece.name: PackedStack(rows, self, piece) if isinstance(piece, PackedPiece) else piece.stacked(rows)
            for piece in self.pieces
        }

    def rows_of(self, module: Any) -> torch.Tensor | None:
        """The rows that a module's parameters are in."""
        for piece in self.pieces:
            parameter = getattr(module, piece.name)
            if isinstance(parameter, PackedStack):
                return parameter.rows if self.are_in(parameter.rows, module) else None
        return None


class PackedWeights(Mapping[str, torch.Tensor]):
    """An expert's parameters by name, in a row uint8 [row_bytes]. Each look unpacks, and keeps nothing."""

    def __init__(self, layout: PackedLayout, row: torch.Tensor) -> None:
        self.layout = layout
        self.row = row
        self._pieces = {piece.name: piece for piece in layout.pieces}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._pieces[name].of(self.row)

    def piece(self, name: str) -> Piece:
        """Where a parameter lies."""
        return self._pieces[name]

    def matrices(self, name: str) -> list[tuple[Matrix, Parts]]:
        """A parameter's matrices with their parts, views of the row; none where it is plain."""
        piece = self._pieces[name]
        found = piece.matrices if isinstance(piece, PackedPiece) else ()
        return [(matrix, matrix.parts(self.row)) for matrix in found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


def packed_layout(parameters: Sequence[StoredAs]) -> PackedLayout:
    """A row with these parameters, in their order. Raises InputError for a shape that a format cannot store."""
    pieces: list[Piece] = []
    begin = 0
    for stored in parameters:
        piece = _piece(stored, begin)
        pieces.append(piece)
        begin += -(-piece.num_bytes // ALIGN) * ALIGN
    return PackedLayout(tuple(pieces), begin)


def _piece(stored: StoredAs, begin: int) -> Piece:
    if not stored.formats:
        return Piece(stored.name, begin, stored.shape, stored.dtype)
    rows, columns = reversed(stored.shape) if stored.transposed else stored.shape
    count = len(stored.formats)
    if rows % count or stored.joined not in JOINED:
        raise InputError(f"{stored.name} {list(stored.shape)} is not made of {count} equal matrices ({stored.joined})")
    matrices, at = [], begin
    for each in stored.formats:
        matrices.append(Matrix(each, (rows // count, columns), at))
        at += -(-matrices[-1].num_bytes // ALIGN) * ALIGN
    return PackedPiece(
        stored.name, begin, stored.shape, stored.dtype, tuple(matrices), stored.joined, stored.transposed
    )
