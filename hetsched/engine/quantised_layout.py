"""QuantisedLayout: one expert's lossy copy as a row of bytes, and its parameters as the engine asks for them.

GGUF's blocks of 32 weights in the order of memory: Q8_0 is 32 signed bytes and a scale, Q4_0 32 signed nibbles and a
scale, both fp16 (gguf.quants chooses and rounds them). In a row the numbers of all weight matrices come first, then all
scales, then what is not quantised: biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any, cast

import numpy as np
import torch

from ..packed import ALIGN, Layout, Piece, layout_of
from ..tiers import BLOCK, INT4, Precision
from .quantised_weight import QuantisedWeight

GGUF_ROW = 4096  # weights; gguf works on 16 rows at a time, and short ones are slow


@dataclass(frozen=True)
class QuantisedLayout(Layout):
    """`pieces`: numbers and scales as they lie in the row, then exact pieces. `matrices`: what is made of them.

    `begin` of a matrix counts weights, not bytes; each begins with a block.
    """

    precision: Precision
    matrices: tuple[Piece, ...]

    @classmethod
    def quantising(cls, module: Any, precision: Precision) -> QuantisedLayout:
        """The layout of an expert module's copies."""
        exact = layout_of(module).pieces
        matrices, weights = [], 0
        for piece in exact:
            if len(piece.shape) > 1:
                matrices.append(Piece(piece.name, weights, piece.shape, piece.dtype))
                weights += -(-prod(piece.shape) // BLOCK) * BLOCK
        stored = [
            Piece("numbers", 0, (weights * (4 if precision is INT4 else 8) // 8,), torch.int8),
            Piece("scales", 0, (weights // BLOCK, 1), torch.float16),
            *(piece for piece in exact if len(piece.shape) == 1),
        ]
        pieces, begin = [], 0
        for piece in stored:
            pieces.append(Piece(piece.name, begin, piece.shape, piece.dtype))
            begin += -(-piece.num_bytes // ALIGN) * ALIGN
        return cls(tuple(pieces), begin, precision, tuple(matrices))

    def views(self, row: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """One expert's parameters, where the row is; see Copied."""
        return CopiedWeights(self, super().views(row))

    def fill(self, row: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> None:
        """Write one expert's copy, from its exact weights, into a row in host memory."""
        stored = super().views(row)
        for piece in self.pieces[2:]:
            stored[piece.name].copy_(weights[piece.name])
        for piece in self.matrices:
            packed = _packed(weights[piece.name], self.precision)
            first, count = piece.begin // BLOCK, len(packed)
            scales, numbers = packed[:, :2].copy().view(np.float16), packed[:, 2:]
            if self.precision is INT4:
                numbers = numbers ^ np.uint8(0x88)  # nibbles of 0..15 that mean -8..7 become two's complement
            stored["scales"][first : first + count] = torch.from_numpy(scales)
            width = numbers.shape[1]
            stored["numbers"].view(-1, width)[first : first + count] = torch.from_numpy(numbers.view(np.int8))


class CopiedWeights(Mapping[str, torch.Tensor]):
    """An expert's parameters by name. Each look at a matrix makes its weights anew and keeps none.

    On a CUDA device a matrix is a QuantisedWeight instead, whose weights are made only where no kernel reads the copy.
    """

    def __init__(self, layout: QuantisedLayout, stored: Mapping[str, torch.Tensor]) -> None:
        self._int4 = layout.precision is INT4
        self._stored = stored
        self._matrices = {piece.name: piece for piece in layout.matrices}
        self._names = [*self._matrices, *(piece.name for piece in layout.pieces[2:])]

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._matrices:
            weight = self.matrix(name)
            return cast(Any, weight) if weight.numbers.is_cuda else weight.made()
        if name not in self._names:
            raise KeyError(name)
        return self._stored[name]

    def matrix(self, name: str) -> QuantisedWeight:
        """A matrix as the row holds it."""
        piece, width = self._matrices[name], BLOCK // 2 if self._int4 else BLOCK
        first, count = piece.begin // BLOCK, -(-prod(piece.shape) // BLOCK)
        numbers = self._stored["numbers"].view(-1, width)[first : first + count]
        return QuantisedWeight(numbers, self._stored["scales"][first : first + count], piece.shape, piece.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _packed(matrix: torch.Tensor, precision: Precision) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Weights in the order of memory, zeros behind the last, as gguf packs them: uint8 [blocks, bytes of a block]."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    flat = matrix.detach().reshape(-1).float()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).numpy()
    rows = padded.reshape(-1, gcd(len(padded), GGUF_ROW))
    packed: np.ndarray[Any, np.dtype[np.uint8]] = quantize(rows, GGMLQuantizationType[precision.gguf_type])
    return packed.reshape(len(padded) // BLOCK, -1)
