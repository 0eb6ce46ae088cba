"""Up to how many tokens our product beats torch's on a model's dense weights: measured at attach, on the weights.

Shapes: T tokens, N output columns, K input columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..cpu_kernels.choose import CLEARLY
from ..cpu_kernels.packed.dense import DenseProduct, ManyTokens, matrix_of
from ..cpu_kernels.packed.kernels import PackedKernel
from ..cpu_kernels.packed.matrix import PackedMatrix
from .timing import time_together

TOKENS = (1, 2, 4, 8)
SMALLEST = 256 << 10  # bytes of a weight that is worth a measurement
SAMPLE = 8 << 20  # bytes of a weight read in one measured call
SAMPLES = 32
MANY = 128  # tokens, of a short prompt


class Key(NamedTuple):
    """What a weight [N, K] is; `packed`: its format's name, "" for numbers of `dtype`."""

    rows: int
    columns: int
    dtype: torch.dtype
    packed: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of its numbers."""
        return self.rows * self.columns * self.dtype.itemsize


class DenseTiming(NamedTuple):
    """Median seconds of both products for so many tokens."""

    tokens: int
    ours_s: float
    torch_s: float


class DenseChoice(NamedTuple):
    """Up to how many tokens of a weight ours is taken, 0 where torch's always is; and why."""

    most: Mapping[Key, int]
    reason: str


def choose_dense(weights: Mapping[Key, Sequence[torch.Tensor]], budget_s: float = 0.5) -> DenseChoice:
    """The faster product for each shape and count of tokens within about `budget_s`, other weights on every call."""
    large = [key for key in weights if key.num_bytes >= SMALLEST]
    most, reasons = dict.fromkeys(weights, 0), []
    for key in large:
        timings = _timings(key, list(_samples(weights[key])), budget_s / len(large) / len(TOKENS))
        most[key] = served(timings)
        reasons.append(f"{key.rows} x {key.columns}: {_why(most[key], timings)}")
    left = len(weights) - len(large)
    if left:
        reasons.append(f"{left} shape{'s' * (left > 1)} under {SMALLEST >> 10} KiB: torch")
    return DenseChoice(most, "; ".join(reasons) or "no linear map outside the experts that our product could read")


def choose_many(kernel: PackedKernel, weight: torch.Tensor, budget_s: float = 0.2) -> ManyTokens:
    """The faster way to multiply many tokens by packed weights such as this one, measured on rows of it."""
    ways, matrix = [ManyTokens(kernel, half) for half in (False, True)], matrix_of(weight)
    if matrix is None or weight.dtype is not torch.bfloat16 or weight.nbytes < SMALLEST:
        return ways[0]
    rows = max(SAMPLE // (4 * matrix.shape[1]) // matrix.format.block[0] * matrix.format.block[0], 1)
    some = matrix.rows(0, min(rows, matrix.shape[0]))
    with torch.no_grad():
        input_TK = torch.ones((MANY, matrix.shape[1]), dtype=weight.dtype)
        wide, half = time_together([partial(_many, way, input_TK, some) for way in ways], budget_s)
    return ways[half.median_s < CLEARLY * wide.median_s]


def served(timings: Sequence[DenseTiming]) -> int:
    """The largest count up to which ours is clearly faster at all that were measured."""
    most = 0
    for timing in timings:
        if timing.ours_s >= CLEARLY * timing.torch_s:
            break
        most = timing.tokens
    return most


def _why(most: int, timings: Sequence[DenseTiming]) -> str:
    shown = [timing for timing in timings if timing.tokens in (1, most)]
    taken = ", ".join(f"{t.ours_s * 1e3:.2f} ms against torch's {t.torch_s * 1e3:.2f} at {t.tokens}" for t in shown)
    return f"{f'packed up to {most} tokens' if most else 'torch'} ({taken})"


def _samples(weights: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Rows of as many weights as there are, no more than SAMPLE bytes each, from other places of the same one last."""
    parts = [list(weight.detach().split_with_sizes(_heights(weight))) for weight in weights]
    given = 0
    for number in range(max(map(len, parts))):
        for part in parts:
            if number < len(part) and part[number].shape == part[0].shape and given < SAMPLES:
                given += 1
                yield part[number]


def _heights(weight: torch.Tensor) -> list[int]:
    """Rows of its samples, fewer in the last."""
    rows = max(SAMPLE // (weight.shape[1] * weight.itemsize) // 4 * 4, 4)
    return [min(rows, weight.shape[0] - begin) for begin in range(0, weight.shape[0], rows)]


def _timings(key: Key, samples: Sequence[torch.Tensor], budget_s: float) -> list[DenseTiming]:
    products = [DenseProduct(matrix, key.dtype) for sample in samples if (matrix := matrix_of(sample)) is not None]
    timings = []
    with torch.no_grad():
        for tokens in TOKENS:
            input_TK = torch.ones((tokens, key.columns), dtype=key.dtype)
            out_TN = torch.empty((tokens, len(samples[0])), dtype=key.dtype)
            calls: list[Callable[[int], object]] = [
                partial(_ours, products, out_TN, input_TK),
                partial(_torchs, samples, input_TK),
            ]
            ours, torchs = time_together(calls, budget_s)
            timings.append(DenseTiming(tokens, ours.median_s, torchs.median_s))
            if not served(timings):
                break
    return timings


def _many(way: ManyTokens, input_TK: torch.Tensor, matrix: PackedMatrix, _number: int) -> None:
    way(input_TK, matrix)


def _ours(products: Sequence[DenseProduct], out_TN: torch.Tensor, input_TK: torch.Tensor, number: int) -> None:
    products[number % len(products)].into(out_TN, input_TK, None)


def _torchs(samples: Sequence[torch.Tensor], input_TK: torch.Tensor, number: int) -> None:
    F.linear(input_TK, samples[number % len(samples)])
