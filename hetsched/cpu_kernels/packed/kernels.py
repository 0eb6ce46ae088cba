"""Products and whole experts on packed weights: few tokens in one pass over memory, many by blocks unpacked for torch.

The weights are the checkpoint's own numbers and sums are fp32: only the order of additions differs from the unpacked
model in fp32. Shapes: T tokens, S tokens sorted by expert, E experts, N active experts or output columns, K input
columns, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ...types import IntArray
from ..numba_kernels import LOCK, _launch_pool
from .lanes import host_features
from .matrix import ExpertMatrices, PackedMatrix
from .records import Record, record_of
from .steps import Unpacker

FEW = 32  # tokens of one expert or product, up to which weights are unpacked for every four tokens anew
BLOCK_BYTES = 4 << 20  # of weights unpacked at a time


class Clamped(NamedTuple):
    """gpt-oss's activation: (up + 1) gate sigmoid(alpha gate), both kept within a limit."""

    alpha: float = 1.702
    limit: float = 7.0


class PackedLayer(NamedTuple):
    """A layer's experts, made once; `place` int64 [E, 18] as the loops read it, records of hidden states and of
    what goes into down."""

    experts: tuple[ExpertMatrices, ...]
    place: IntArray
    hidden: Record
    inner: Record


class PackedKernel:
    """Products with packed matrices. Deterministic: a token's result has the same bits whatever tokens and threads
    share the call, up to `few` tokens; beyond, torch multiplies blocks of weights that are unpacked once.

    `rounded`: activations of few tokens are rounded to signed bytes, 32 together, where the format has kernels for it:
    lossy, as llama.cpp computes.
    """

    def __init__(
        self,
        threads: int | None = None,
        features: frozenset[str] | None = None,
        few: int = FEW,
        rounded: bool = False,
    ) -> None:
        from . import loops  # compiles, so only where it is wanted

        self._loops: Any = loops
        self.threads = threads or torch.get_num_threads()
        self.few = few
        self.rounded = rounded
        self.lossless = not rounded
        self._features = host_features() if features is None else features
        _launch_pool()

    def linear(self, input_TK: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
        """x times the transposed weights, in the dtype of x: [T, N]."""
        if len(input_TK) > self.few:
            return self._in_blocks(_arranged(input_TK, matrix.unpacker), matrix).to(input_TK.dtype)
        unpacker = matrix.reader(self.rounded)
        record = record_of(unpacker, matrix.shape[1])
        x_TK = input_TK.detach().float().contiguous().numpy()
        out_TN = np.empty((len(x_TK), matrix.shape[0]), np.float32)
        place = np.array(self._reading(matrix, unpacker), np.int64)
        x_TB, how = _records(len(x_TK), record), (0, record.rounded, record.factor)
        work = place, _in_turn(len(x_TK)), x_TK, x_TB, record.put_K, record.scale_K, how, out_TN
        with LOCK:
            self._loops.set_num_threads(self.threads)
            self._loops.multiplying()(*work, self.threads)
        return torch.from_numpy(out_TN).to(input_TK.dtype)

    def pack_several(self, experts_E: Sequence[ExpertMatrices]) -> PackedLayer:
        """Where a layer's experts are, and what reads them; no copy. All have the formats and shapes of the first."""
        rows = []
        for *matrices, biases in experts_E:
            how = [n for matrix in matrices for n in self._reading(matrix, matrix.reader(self.rounded))]
            rows.append([*how, *([bias.data_ptr() for bias in biases] if biases else (0, 0, 0))])
        gate, _, down, _ = experts_E[0]
        hidden, inner = (record_of(matrix.reader(self.rounded), matrix.shape[1]) for matrix in (gate, down))
        return PackedLayer(tuple(experts_E), np.array(rows, np.int64), hidden, inner)

    def swiglu_of_several(
        self,
        input_SH: torch.Tensor,
        layer: PackedLayer,
        active: Sequence[int],
        counts: Sequence[int],
        activation: Clamped | None = None,
    ) -> torch.Tensor:
        """Several experts in one go: fp32 [S, H]. Expert active[i] has the next counts[i] rows of `input_SH`.

        `activation` None: silu. Experts of few tokens share one call, each of many has its own.
        """
        return self.swiglu_of_rows(input_SH, _in_turn(len(input_SH)), layer, active, counts, activation)

    def swiglu_of_rows(
        self,
        input_TH: torch.Tensor,
        rows_S: IntArray,
        layer: PackedLayer,
        active: Sequence[int],
        counts: Sequence[int],
        activation: Clamped | None = None,
    ) -> torch.Tensor:
        """The same where expert active[i] has the next counts[i] of `rows_S`, which name rows of `input_TH`."""
        few = [i for i, count in enumerate(counts) if count <= self.few]
        if len(few) == len(counts):
            return self._together(input_TH, rows_S, layer, active, counts, activation)
        parts = np.split(rows_S, np.cumsum(counts)[:-1])
        out_N: list[torch.Tensor] = [torch.empty(0)] * len(counts)
        for i, rows in enumerate(parts):
            if counts[i] > self.few:
                out_N[i] = self._many(input_TH[torch.from_numpy(rows)], layer.experts[active[i]], activation)
        if few:
            rows, some = np.concatenate([parts[i] for i in few]), [counts[i] for i in few]
            done = self._together(input_TH, rows, layer, [active[i] for i in few], some, activation)
            for i, part in zip(few, done.split_with_sizes(some), strict=True):
                out_N[i] = part
        return torch.cat(out_N)

    def _together(
        self,
        input_TH: torch.Tensor,
        rows_S: IntArray,
        layer: PackedLayer,
        active: Sequence[int],
        counts: Sequence[int],
        activation: Clamped | None,
    ) -> torch.Tensor:
        gate, _, down, _ = layer.experts[0]
        x_TH = input_TH.detach().float().contiguous().numpy()
        size, ffn = len(rows_S), gate.shape[0]
        h_SF, u_SF = np.empty((2, size, ffn), np.float32)
        out_SH = np.empty((size, down.shape[0]), np.float32)
        hidden, inner, clamped = layer.hidden, layer.inner, activation is not None
        alpha, limit = activation or (0.0, 0.0)
        work = (
            *(layer.place[active], np.array([0, *accumulate(counts)], np.int64), rows_S, _in_turn(size)),
            *(x_TH, _records(len(x_TH), hidden), hidden.put_K, hidden.scale_K),
            *((clamped, hidden.rounded, hidden.factor), h_SF, u_SF),
            *(_records(size, inner), inner.put_K, inner.scale_K, (clamped, inner.rounded, inner.factor)),
            *(out_SH, np.float32(alpha), np.float32(limit)),
        )
        with LOCK:
            self._loops.set_num_threads(self.threads)
            self._loops.swiglu_of_several()(*work, self.threads)
        return torch.from_numpy(out_SH)

    def _many(self, hidden_TH: torch.Tensor, expert: ExpertMatrices, activation: Clamped | None) -> torch.Tensor:
        x_TH = _arranged(hidden_TH, expert.gate.unpacker)
        gate, up = (self._in_blocks(x_TH, matrix) for matrix in (expert.gate, expert.up))
        if expert.biases:
            gate, up = gate + expert.biases[0], up + expert.biases[1]
        if activation is None:
            inner = torch.nn.functional.silu(gate) * up
        else:
            gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
            inner = (up + 1) * (gate * torch.sigmoid(gate * activation.alpha))
        out_TH = self._in_blocks(_arranged(inner, expert.down.unpacker), expert.down)
        return out_TH + expert.biases[2] if expert.biases else out_TH

    def _in_blocks(self, x_TK: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
        """fp32 [T, N]; x in the unpacker's order."""
        rows, columns = matrix.shape
        out_TN = torch.empty((len(x_TK), rows))
        block = torch.empty((min(max(BLOCK_BYTES // 4 // columns, 1), rows), columns))
        place = np.array(self._placed(self._loops.widening(matrix.unpacker, self._features), matrix), np.int64)
        for begin in range(0, rows, len(block)):
            some = block[: rows - begin]
            with LOCK:
                self._loops.set_num_threads(self.threads)
                self._loops.unpacking()(place, begin, some.numpy(), self.threads)
            out_TN[:, begin : begin + len(some)] = x_TK @ some.t()
        return out_TN

    def _reading(self, matrix: PackedMatrix, unpacker: Unpacker) -> list[int]:
        """How loops read a matrix: by what, and where it is."""
        return self._placed(self._loops.reading(unpacker, self._features), matrix)

    @staticmethod
    def _placed(function: int, matrix: PackedMatrix) -> list[int]:
        return [function, matrix.blocks, matrix.scales, matrix.row_bytes, matrix.scale_row_bytes]


@cache
def _in_turn(size: int) -> IntArray:
    """Rows as they come. Nobody writes to it."""
    return np.arange(size, dtype=np.int64)


def _records(tokens: int, record: Record) -> npt.NDArray[np.uint8]:
    """Room for records, at a cache line; zeroed where sums begin from zero."""
    make = torch.zeros if record.rounded else torch.empty
    made: npt.NDArray[np.uint8] = make((tokens, record.num_bytes), dtype=torch.uint8).numpy()
    return made


def _arranged(input_TK: torch.Tensor, unpacker: Unpacker) -> torch.Tensor:
    """Activations in fp32 in the unpacker's order."""
    order = unpacker.order(input_TK.shape[1])
    return input_TK.detach().float()[:, torch.from_numpy(order)]
