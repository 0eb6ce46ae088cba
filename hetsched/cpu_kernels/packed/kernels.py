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
from .steps import Unpacker

FEW = 32  # tokens of one expert or product, up to which weights are unpacked for every four tokens anew
BLOCK_BYTES = 4 << 20  # of weights unpacked at a time


class Clamped(NamedTuple):
    """gpt-oss's activation: (up + 1) gate sigmoid(alpha gate), both kept within a limit."""

    alpha: float = 1.702
    limit: float = 7.0


class PackedLayer(NamedTuple):
    """A layer's experts; `place` int64 [E, 9] as the loops read it, `bytes_6` from row to row of blocks and scales."""

    experts: tuple[ExpertMatrices, ...]
    place: IntArray
    bytes_6: IntArray


class PackedKernel:
    """Products with packed matrices. Deterministic: a token's result has the same bits whatever tokens and threads
    share the call, up to FEW tokens; beyond, torch multiplies blocks of weights that are unpacked once.
    """

    lossless = True

    def __init__(self, threads: int | None = None, features: frozenset[str] | None = None, few: int = FEW) -> None:
        from . import loops  # compiles, so only where it is wanted

        self._loops: Any = loops
        self.threads = threads or torch.get_num_threads()
        self.few = few
        self._features = host_features() if features is None else features
        _launch_pool()

    def linear(self, input_TK: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
        """x times the transposed weights, in the dtype of x: [T, N]."""
        unpacker = matrix.unpacker
        x_TK = _arranged(input_TK, unpacker)
        if len(x_TK) > self.few:
            return self._in_blocks(torch.from_numpy(x_TK), matrix).to(input_TK.dtype)
        out_TN = np.empty((len(x_TK), matrix.shape[0]), np.float32)
        with LOCK:
            self._loops.set_num_threads(self.threads)
            multiply = self._loops.multiplying(unpacker, self._features)
            multiply(*_address(matrix), x_TK, out_TN, self.threads)
        return torch.from_numpy(out_TN).to(input_TK.dtype)

    def pack_several(self, experts_E: Sequence[ExpertMatrices]) -> PackedLayer:
        """Where a layer's experts are; no copy. All have the formats and shapes of the first."""
        rows = []
        for gate, up, down, biases in experts_E:
            addresses = [n for matrix in (gate, up, down) for n in (matrix.blocks, matrix.scales)]
            rows.append(addresses + [bias.data_ptr() for bias in biases or ()] + [0] * (0 if biases else 3))
        first = experts_E[0]
        strides = [n for matrix in first[:3] for n in (matrix.row_bytes, matrix.scale_row_bytes)]
        return PackedLayer(tuple(experts_E), np.array(rows, np.int64), np.array(strides, np.int64))

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
        parts = input_SH.split_with_sizes(list(counts))
        few = [i for i, count in enumerate(counts) if count <= self.few]
        if len(few) == len(counts):
            return self._together(input_SH, layer, active, counts, activation)
        chosen = zip(parts, active, strict=True)
        out_S = [self._many(part, layer.experts[e], activation) for part, e in chosen if len(part) > self.few]
        if not few:
            return torch.cat(out_S)
        together = torch.cat([parts[i] for i in few])
        done = self._together(together, layer, [active[i] for i in few], [counts[i] for i in few], activation)
        rest, many = iter(done.split_with_sizes([counts[i] for i in few])), iter(out_S)
        return torch.cat([next(rest) if count <= self.few else next(many) for count in counts])

    def _together(
        self,
        input_SH: torch.Tensor,
        layer: PackedLayer,
        active: Sequence[int],
        counts: Sequence[int],
        activation: Clamped | None,
    ) -> torch.Tensor:
        gate, _, down, _ = layer.experts[0]
        inner, outer = gate.unpacker, down.unpacker
        x_SH, ends = _arranged(input_SH, inner), np.array([0, *accumulate(counts)], np.int64)
        h, u, z = np.empty((3, len(x_SH), gate.shape[0]), np.float32)
        out_SH = np.empty((len(x_SH), down.shape[0]), np.float32)
        alpha, limit = map(np.float32, activation or (0.0, 0.0))
        work = layer.place[list(active)], layer.bytes_6, ends, x_SH, h, u, z, _places(outer, gate.shape[0]), out_SH
        with LOCK:
            self._loops.set_num_threads(self.threads)
            swiglu = self._loops.swiglu_of(inner, outer, activation is not None, self._features)
            swiglu(*work, alpha, limit, self.threads)
        return torch.from_numpy(out_SH)

    def _many(self, hidden_TH: torch.Tensor, expert: ExpertMatrices, activation: Clamped | None) -> torch.Tensor:
        x_TH = torch.from_numpy(_arranged(hidden_TH, expert.gate.unpacker))
        gate, up = (self._in_blocks(x_TH, matrix) for matrix in (expert.gate, expert.up))
        if expert.biases:
            gate, up = gate + expert.biases[0], up + expert.biases[1]
        if activation is None:
            inner = torch.nn.functional.silu(gate) * up
        else:
            gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
            inner = (up + 1) * (gate * torch.sigmoid(gate * activation.alpha))
        out_TH = self._in_blocks(torch.from_numpy(_arranged(inner, expert.down.unpacker)), expert.down)
        return out_TH + expert.biases[2] if expert.biases else out_TH

    def _in_blocks(self, x_TK: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
        """fp32 [T, N]; x in the unpacker's order."""
        rows, columns = matrix.shape
        out_TN = torch.empty((len(x_TK), rows))
        block = torch.empty((min(max(BLOCK_BYTES // 4 // columns, 1), rows), columns))
        widen = self._loops.widening(matrix.unpacker, self._features)
        for begin in range(0, rows, len(block)):
            some = block[: rows - begin]
            with LOCK:
                self._loops.set_num_threads(self.threads)
                widen(*_address(matrix), begin, some.numpy(), self.threads)
            out_TN[:, begin : begin + len(some)] = x_TK @ some.t()
        return out_TN


def _address(matrix: PackedMatrix) -> tuple[int, int, int, int]:
    return matrix.blocks, matrix.scales, matrix.row_bytes, matrix.scale_row_bytes


@cache
def _order(unpacker: Unpacker, columns: int) -> Any:
    """The columns as the unpacker takes them; None where that is as they come."""
    order = unpacker.order(columns)
    return None if order is None or np.array_equal(order, np.arange(columns)) else order


@cache
def _places(unpacker: Unpacker, columns: int) -> IntArray:
    """Where the unpacker takes each column."""
    order = _order(unpacker, columns)
    places = np.arange(columns) if order is None else np.argsort(order)
    return places.astype(np.int64)


def _arranged(input_TK: torch.Tensor, unpacker: Unpacker) -> npt.NDArray[np.float32]:
    """Activations as the kernel reads them: fp32, in the unpacker's order."""
    wide_TK: npt.NDArray[np.float32] = input_TK.detach().float().contiguous().numpy()
    order = _order(unpacker, wide_TK.shape[1])
    return wide_TK if order is None else wide_TK.take(order, axis=1)
