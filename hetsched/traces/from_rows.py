"""A trace from rows in any order: a first reading finds layers, sequences and lengths, a second fills arrays on disk.

Memory holds one entry for each sequence and layer, never the rows. Shapes: T tokens, L layers, K ids a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import temporary_folder
from .archive import write_arrays
from .checks import chunks
from .meta import MAX_EXPERTS, meta_array, trace_meta
from .rows import Row, RowFile

_EMPTY, _NO_PHASE = -1, 254


@dataclass
class _Extent:
    """What the first reading finds: first and last token of each sequence, layers, ids a row."""

    top_k: int = 0
    has_weights: bool = False
    first_line: int = 0
    rows: int = 0
    layers: set[int] = field(default_factory=set)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, path: Path, row: Row) -> None:
        """Widen by one row. Raises InputError when it has another number of ids than the first."""
        if not self.first_line:
            self.first_line, self.top_k, self.has_weights = row.line, len(row.experts), bool(row.weights)
        if len(row.experts) != self.top_k:
            text = f"{len(row.experts)} expert ids, but line {self.first_line} has {self.top_k}"
            raise InputError(f"{path}, line {row.line}: {text}")
        self.rows += 1
        self.layers.add(row.layer)
        low, high = self.spans.get(row.sequence, (row.token, row.token))
        self.spans[row.sequence] = min(low, row.token), max(high, row.token)

    def starts(self) -> dict[str, int]:
        """Place of a sequence's token 0 in the arrays (its first token may have a higher number)."""
        places, used = {}, 0
        for name, (low, high) in self.spans.items():
            places[name] = used - low
            used += high - low + 1
        return places

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(high - low + 1 for low, high in self.spans.values())


def import_rows(
    file: RowFile,
    num_experts: int,
    path: str | Path,
    *,
    meta: dict[str, Any] | None = None,
    at_bytes: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write the trace of a row file; its meta. Sequences are numbered in order of appearance.

    Every token of a sequence, from its lowest to its highest number, must have one row in every layer. Raises
    InputError naming line and column, or the token that has no row.
    """
    if not 1 <= num_experts <= MAX_EXPERTS:
        raise InputError(f"--experts is {num_experts}; it must lie in 1..{MAX_EXPERTS}")
    extent = _Extent()
    for row in file.rows(at_bytes):
        extent.add(file.path, row)
    if not extent.first_line:
        raise InputError(f"{file.path} has no rows")
    try:
        with temporary_folder(Path(path).parent, ".import-") as folder:
            filled = _Fill(file.path, extent, num_experts, folder)
            for row in file.rows(at_bytes):
                filled.add(row)
            filled.check_whole()
            layers = sorted(extent.layers)
            full = {**trace_meta(num_experts, extent.top_k, len(layers)), "layers": layers, **(meta or {})}
            write_arrays(path, {**filled.arrays, "meta": meta_array(full)})
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
    return full


class _Fill:
    """The arrays on disk, filled row by row."""

    def __init__(self, source: Path, extent: _Extent, num_experts: int, folder: Path) -> None:
        self._source, self._extent, self._num_experts = source, extent, num_experts
        self._starts = extent.starts()
        self._layer = {layer: i for i, layer in enumerate(sorted(extent.layers))}
        rows = (extent.tokens, len(self._layer), extent.top_k)
        if extent.tokens * len(self._layer) > 2 * extent.rows + 1000:  # do not fill a disk with holes
            text = f"{extent.rows} rows cannot be {extent.tokens} tokens of {len(self._layer)} layers"
            raise InputError(f"{source}: {text}; number the tokens of a sequence without gaps, and log every layer")
        self.arrays = {
            "experts": _on_disk(folder / "experts", np.int16, rows, _EMPTY),
            "sequence": _on_disk(folder / "sequence", np.int32, rows[:1], 0),
            "phase": _on_disk(folder / "phase", np.uint8, rows[:1], _NO_PHASE),
        }
        if extent.has_weights:
            self.arrays["weights"] = _on_disk(folder / "weights", np.float16, rows, 0)
        for number, (name, (low, high)) in enumerate(extent.spans.items()):
            start = self._starts[name]
            self.arrays["sequence"][start + low : start + high + 1] = number

    def add(self, row: Row) -> None:
        """Put one row in its place."""
        token, layer = self._starts[row.sequence] + row.token, self._layer[row.layer]
        if self.arrays["experts"][token, layer, 0] != _EMPTY:
            hint = "" if len(self._starts) > 1 else "; if the file holds several sequences, name a sequence column"
            raise self._error(row, f"token {row.token} has a row for layer {row.layer} already{hint}")
        if not all(0 <= expert < self._num_experts for expert in row.experts):
            raise self._error(row, f"expert ids {list(row.experts)}, expected 0..{self._num_experts - 1}")
        if len(set(row.experts)) < len(row.experts):
            raise self._error(row, f"expert ids {list(row.experts)} name one twice")
        if self.arrays["phase"][token] not in (_NO_PHASE, row.phase):
            raise self._error(row, f"phase {row.phase}, but another layer of the token said another")
        self.arrays["experts"][token, layer] = row.experts
        self.arrays["phase"][token] = row.phase
        if self._extent.has_weights:
            self.arrays["weights"][token, layer] = row.weights

    def check_whole(self) -> None:
        """Raise InputError for the first token and layer without a row."""
        experts_TLK = self.arrays["experts"]
        for part in chunks(len(experts_TLK), experts_TLK[0].size):
            holes_TL = experts_TLK[part, :, 0] == _EMPTY
            if holes_TL.any():
                token, layer = np.unravel_index(int(np.argmax(holes_TL)), holes_TL.shape)
                name, number = self._named(int(token) + part.start)
                of = f" of sequence {name!r}" if len(self._starts) > 1 else ""
                number_of_layer = sorted(self._extent.layers)[int(layer)]
                raise InputError(f"{self._source}: token {number}{of} has no row for layer {number_of_layer}")

    def _named(self, place: int) -> tuple[str, int]:
        """Sequence and token number of a place in the arrays."""
        name = list(self._starts)[int(self.arrays["sequence"][place])]
        return name, place - self._starts[name]

    def _error(self, row: Row, text: str) -> InputError:
        return InputError(f"{self._source}, line {row.line}: {text}")


def _on_disk(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], value: int) -> npt.NDArray[Any]:
    """A mapped array whose bytes are all on the disk: one that is full says so here, and ends nobody by SIGBUS later.

    Raises OSError.
    """
    with path.open("wb") as file:
        for part in chunks(shape[0], int(np.prod(shape[1:]))):
            file.write(np.full((part.stop - part.start, *shape[1:]), value, dtype).data)
    return np.memmap(path, dtype, "r+", 0, shape).view(np.ndarray)
