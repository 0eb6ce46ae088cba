"""What a launch reads of its experts: how their matrices are stored, which they have in common, and where.

Shapes: N experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from ...packed import PackedPiece, PackedWeights
from .loads import LOADS, Load, load_of
from .source import MAX_EXPERTS, MAX_ROWS

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
PLAIN = {dtype: LOADS[name](None) for dtype, name in DTYPE_NAMES.items()}
ALIGNED = 16  # bytes; the widest load
ADDRESSES = ("gate_N", "up_N", "down_N", "up_bias_N", "down_bias_N")
LAYER = np.dtype(
    [*((name, np.uint64, MAX_EXPERTS) for name in ADDRESSES), ("begin_N", np.int32, MAX_EXPERTS + 1)], align=True
)
STORED = np.dtype([(name, np.int32) for name in ("rows", "columns", "second", "third")])
ORDER = np.dtype([(name, np.int32) for name in ("F", "up_row", "row_step", "up_bias", "bias_step")])
Structure: TypeAlias = "np.ndarray[Any, np.dtype[np.void]]"
Weights: TypeAlias = Mapping[str, torch.Tensor]


class Experts(NamedTuple):
    """Experts of one launch, ascending by expert: the weights of each, and how many pairs it has."""

    weights: Sequence[Weights]
    pairs_N: Sequence[int]


class Stored(NamedTuple):
    """How a matrix [rows, columns] is read, and at which of its bytes its second and third parts begin."""

    load: Load
    rows: int
    columns: int
    second: int = 0
    third: int = 0

    def packed(self) -> Structure:
        """The kernels' argument."""
        return np.array(self[1:], STORED)


class Reading(NamedTuple):
    """What all experts of a launch have in common: both products' matrices, and the order of gate and up.

    `up_row`, `row_step`: up's first row in the matrix that is up's, and what each next row of both is further.
    """

    up: Stored
    down: Stored
    up_row: int
    row_step: int
    turns: bool

    def order(self) -> Structure:
        """The kernels' argument."""
        ffn = self.down.columns
        biases = (1, 2) if self.turns else (ffn, 1)
        return np.array((ffn, self.up_row, self.row_step, *biases), ORDER)


def reading_of(weights: Weights, dtype: torch.dtype, turns: bool, is_transposed: bool = False) -> Reading | None:
    """How the kernels read an expert with activations of `dtype`; None where they cannot.

    They need rows of whole chunks, arithmetic and biases in the activations' dtype, plain matrices row-major as [2F, H]
    and [H, F] (packed ones always are), and gate and up in one format. `turns`, `is_transposed`: as the module has it.
    """
    names = {name.removesuffix("_bias") for name in weights}
    biases = {name for name in weights if name.endswith("_bias")}
    if names != {"gate_up_proj", "down_proj"} or len(biases) == 1 or dtype not in DTYPE_NAMES:
        return None
    if any(_plain(weights, name, dtype) is None for name in biases):
        return None
    matrices_of = _packed_matrices if isinstance(weights, PackedWeights) else _plain_matrices
    ups, downs = (matrices_of(weights, name, dtype, is_transposed) for name in ("gate_up_proj", "down_proj"))
    if not ups or len(downs) != 1 or any(found != ups[0] for found in ups):
        return None
    up, down, ffn = ups[0], downs[0], downs[0].columns
    whole = up.load.reads(up.columns) and down.load.reads(ffn)
    if not whole or up.rows * len(ups) != 2 * ffn or up.columns != down.rows:
        return None
    if len(ups) == 1:
        return Reading(up, down, *((1, 2) if turns else (ffn, 1)), turns)
    joined = weights.piece("gate_up_proj").joined if isinstance(weights, PackedWeights) else ""  # type: ignore[attr-defined]
    return Reading(up, down, 0, 1, turns) if joined == ("turns" if turns else "rows") else None


def addresses(weights: Weights) -> tuple[int, ...]:
    """Where an expert's matrices and biases begin, as in ADDRESSES; 0 for biases that it has not."""
    if isinstance(weights, PackedWeights):
        row, up, down = weights.row.data_ptr(), weights.piece("gate_up_proj"), weights.piece("down_proj")
        ups = [m.begin for m in up.matrices] if isinstance(up, PackedPiece) else [up.begin]
        named = [weights.piece(name).begin for name in ("gate_up_proj_bias", "down_proj_bias") if name in weights]
        return row + ups[0], row + ups[-1], row + down.begin, *((row + at for at in named) if named else (0, 0))
    up, *rest = (weights[name].data_ptr() for name in ("gate_up_proj", "down_proj"))
    biases = (weights[name].data_ptr() if name in weights else 0 for name in ("gate_up_proj_bias", "down_proj_bias"))
    return up, up, *rest, *biases


def layer_of(experts: Experts) -> Structure:
    """The kernels' Layer argument, a structure passed by value. Raises ValueError beyond what a launch takes."""
    count = len(experts.weights)
    if count > MAX_EXPERTS or max(experts.pairs_N) > MAX_ROWS:
        raise ValueError(f"a launch takes {MAX_EXPERTS} experts of {MAX_ROWS} rows each")
    layer: Structure = np.zeros((), LAYER)
    for name, at_N in zip(ADDRESSES, zip(*map(addresses, experts.weights), strict=True), strict=True):
        layer[name][:count] = at_N
    layer["begin_N"][1 : count + 1] = np.cumsum(experts.pairs_N)
    return layer


def _packed_matrices(weights: PackedWeights, name: str, dtype: torch.dtype, is_transposed: bool) -> list[Stored]:
    """A parameter's matrices; none where the kernels cannot read one."""
    piece = weights.piece(name)
    if not isinstance(piece, PackedPiece):
        return _plain_matrices(weights, name, dtype, is_transposed)
    found: list[Stored] = []
    if piece.dtype != dtype or weights.row.data_ptr() % ALIGNED:
        return found
    for matrix in piece.matrices:
        load = load_of(matrix.format)
        if load is None:
            return []
        begins = [part.begin for part in matrix.format.parts(matrix.shape)][1:]
        found.append(Stored(load, *matrix.shape, *begins))
    return found


def _plain_matrices(weights: Weights, name: str, dtype: torch.dtype, is_transposed: bool) -> list[Stored]:
    plain = None if is_transposed else _plain(weights, name, dtype)
    return [] if plain is None else [Stored(PLAIN[dtype], *plain.shape)]


def _plain(weights: Weights, name: str, dtype: torch.dtype) -> torch.Tensor | None:
    """A parameter as it lies in memory; None where the kernels cannot read it there."""
    found = weights[name]
    aligned = found.is_contiguous() and found.data_ptr() % (ALIGNED if found.ndim > 1 else found.element_size()) == 0
    return found if aligned and found.dtype == dtype else None
