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
import torch.nn.functional as F

from ...types import IntArray
from ..numba_kernels import LOCK, _launch_pool
from .blocks import arranged, blocks, multiplied_in, room
from .lanes import host_features
from .matrix import Biases, ExpertMatrices, PackedMatrix
from .records import Record, record_of
from .steps import Unpacker

FEW = 32  # tokens of one expert or product, up to which weights are unpacked for every four tokens anew
ALL = 1 << 62  # tokens: never unpacked before the product

BEGINS, PLACE_WORDS = (0, 5, 10), 18  # of an expert's words: where gate's, up's and down's begin


class Clamped(NamedTuple):
    """gpt-oss's activation: (up + 1) gate sigmoid(alpha gate), both kept within a limit."""

    alpha: float = 1.702
    limit: float = 7.0


class PackedLayer(NamedTuple):
    """A layer's experts, made once. `place` int64 [E, 18] as stages read it, which is at `address`; `first`: an expert
    that has the formats and shapes of all; `hidden`, `inner`: records of hidden states and of what goes into down;
    `held`: what keeps the weights alive.
    """

    first: ExpertMatrices
    place: IntArray
    biases: Sequence[Biases | None]
    hidden: Record
    inner: Record
    held: Any
    address: int

    def expert(self, e: int) -> ExpertMatrices:
        """One of them."""
        how = self.place[e].tolist()
        gate, up, down = (
            matrix._replace(blocks=how[begin + 1], scales=how[begin + 2])
            for matrix, begin in zip(self.first.matrices, BEGINS, strict=True)
        )
        return ExpertMatrices(gate, up, down, self.biases[e])


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
        from . import loops, stages  # they compile, so only where it is wanted

        self._loops: Any = loops
        self._stages: Any = stages
        self.threads = threads or torch.get_num_threads()
        self.few = few
        self.rounded = rounded
        self.lossless = not rounded
        self._features = host_features() if features is None else features
        _launch_pool()

    def linear(self, input_TK: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
        """x times the transposed weights, in the dtype of x: [T, N]."""
        if len(input_TK) > self.few:
            return self.in_blocks(arranged(input_TK.float(), matrix.unpacker), matrix).to(input_TK.dtype)
        unpacker = matrix.reader(self.rounded)
        x_TK, record = _wide(input_TK), record_of(unpacker, matrix.shape[1])
        tokens, out_TN = len(x_TK), torch.empty((len(x_TK), matrix.shape[0]))
        scratch = _scratch(tokens * record.num_bytes, record.is_zeroed)
        words = [x_TK.data_ptr(), *x_TK.shape, scratch.data_ptr(), record.num_bytes, *record.how]
        words += [*self._reading(matrix, unpacker), _address(_in_turn(tokens)), out_TN.data_ptr(), matrix.shape[0]]
        self._run(words, "multiplying", before="arranging")
        return out_TN.to(input_TK.dtype)

    def pack_several(self, experts_E: Sequence[ExpertMatrices]) -> PackedLayer:
        """Where a layer's experts are, and what reads them; no copy. All have the formats and shapes of the first."""
        place = [[n for m in matrices for n in (m.blocks, m.scales)] for *matrices, _ in experts_E]
        return self._layer(experts_E[0], np.array(place, np.int64), [e.biases for e in experts_E], experts_E)

    def pack_rows(
        self, first: ExpertMatrices, offset_E: IntArray, biases_E: Sequence[Biases | None], held: Any
    ) -> PackedLayer:
        """The same for experts that lie so many bytes from the first, in rows alike; `held`: the rows."""
        place = [n for matrix in first.matrices for n in (matrix.blocks, matrix.scales)]
        return self._layer(first, np.array(place, np.int64) + offset_E[:, None], biases_E, (first, held))

    def _layer(
        self, first: ExpertMatrices, place_E6: IntArray, biases_E: Sequence[Biases | None], held: Any
    ) -> PackedLayer:
        place = np.zeros((len(place_E6), PLACE_WORDS), np.int64)
        readers = [matrix.reader(self.rounded) for matrix in first.matrices]
        for i, (matrix, reader, begin) in enumerate(zip(first.matrices, readers, BEGINS, strict=True)):
            place[:, begin : begin + 5] = self._reading(matrix, reader)
            place[:, begin + 1 : begin + 3] = place_E6[:, 2 * i : 2 * i + 2]
        for row, biases in zip(place, biases_E, strict=True):
            row[15:] = [bias.data_ptr() for bias in biases] if biases else 0
        hidden, inner = (record_of(readers[i], first.matrices[i].shape[1]) for i in (0, 2))
        return PackedLayer(first, place, biases_E, hidden, inner, held, _address(place))

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
        x_TH = arranged(input_TH.to(multiplied_in(input_TH.dtype)), layer.first.gate.unpacker)
        for i, rows in enumerate(parts):
            if counts[i] > self.few:
                out_N[i] = self._many(x_TH[torch.from_numpy(rows)], layer.expert(active[i]), activation)
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
        size, ffn, width = len(rows_S), layer.first.gate.shape[0], layer.first.down.shape[0]
        x_TH, hidden, inner = _wide(input_TH), layer.hidden, layer.inner
        out_SH = torch.empty((size, width))
        x_bytes, z_bytes = len(x_TH) * hidden.num_bytes, size * inner.num_bytes
        scratch = _scratch(x_bytes + z_bytes + 8 * size * ffn, hidden.is_zeroed or inner.is_zeroed)
        x = scratch.data_ptr()
        z, h = x + x_bytes, x + x_bytes + z_bytes
        words = [x_TH.data_ptr(), *x_TH.shape, x, hidden.num_bytes, *hidden.how]
        words += [len(active), layer.address, _address(rows_S), _address(_in_turn(size)), h, h + 4 * size * ffn, ffn]
        words += [_address(_limits(activation)), z, inner.num_bytes, *inner.how, out_SH.data_ptr(), width]
        self._run([*words, *active, 0, *accumulate(counts)], "entering", "leaving", before="arranging")
        return out_SH

    def _many(self, x_TH: torch.Tensor, expert: ExpertMatrices, activation: Clamped | None) -> torch.Tensor:
        """One expert, fp32 [T, H]; x as `in_blocks` takes it."""
        gate, up = self.in_blocks(x_TH, expert.gate, expert.up).float().chunk(2, dim=1)
        if expert.biases:
            gate, up = gate + expert.biases[0], up + expert.biases[1]
        if activation is None:
            inner = torch.nn.functional.silu(gate) * up
        else:
            gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
            inner = (up + 1) * (gate * torch.sigmoid(gate * activation.alpha))
        out_TH = self.in_blocks(arranged(inner.to(x_TH.dtype), expert.down.unpacker), expert.down).float()
        return out_TH + expert.biases[2] if expert.biases else out_TH

    def unpacked_into(self, out_NK: torch.Tensor, matrix: PackedMatrix, first: int = 0) -> torch.Tensor:
        """Weights of the rows from `first` on, columns in the unpacker's order, into `out_NK`: contiguous fp32 or bf16,
        rounded to nearest."""
        half = out_NK.dtype is torch.bfloat16
        how = self._placed(self._loops.widening(matrix.unpacker, self._features, half), matrix)
        self._run([*how, first, *out_NK.shape, out_NK.data_ptr(), out_NK.itemsize], "unpacking")
        return out_NK

    def in_blocks(self, x_TK: torch.Tensor, *matrices: PackedMatrix) -> torch.Tensor:
        """x, fp32 or bf16 in the unpacker's order, times rows of matrices, unpacked to that some at a time: [T, N]."""
        parts = []
        for some in blocks(matrices, x_TK.dtype):
            block, begin = room(sum(len(rows) for _, rows in some), x_TK.shape[1], x_TK.dtype), 0
            for matrix, rows in some:
                self.unpacked_into(block[begin : begin + len(rows)], matrix, rows.start)
                begin += len(rows)
            parts.append(F.linear(x_TK, block))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _run(self, words: Sequence[int], *stages: str, before: str = "") -> None:
        given, addresses = np.array(words, np.int64), _addresses(stages)
        with LOCK:
            self._stages.set_num_threads(self.threads)
            first = self._stages.stage(before) if before else 0
            self._stages.run()(first, addresses, _address(given), self.threads)

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


@cache
def _addresses(stages: tuple[str, ...]) -> IntArray:
    from .stages import stage

    return np.array([stage(name) for name in stages], np.int64)


@cache
def _limits(activation: Clamped | None) -> npt.NDArray[np.float32]:
    return np.array(activation or (0.0, 0.0), np.float32)


def _wide(input_TK: torch.Tensor) -> torch.Tensor:
    return input_TK.detach().float().contiguous()


def _scratch(num_bytes: int, zeroed: bool) -> torch.Tensor:
    """Room that begins at a cache line."""
    return (torch.zeros if zeroed else torch.empty)(num_bytes, dtype=torch.uint8)


def _address(array: npt.NDArray[Any]) -> int:
    found: int = array.__array_interface__["data"][0]  # a third of what ctypes.data takes
    return found
