"""Measures whole experts on packed weights: every format at every token count, beside reads of the same memory.

Shapes: T tokens, S tokens sorted by expert, H hidden, F ffn, N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..cpu_kernels.packed.kernels import ALL, PackedKernel
from ..cpu_kernels.packed.matrix import ExpertMatrices, packed_matrix, serves
from ..cpu_kernels.packed_ways import PACKED, PACKED_INT8, UNPACK
from ..formats import Format, Parts, Shape, views_of
from ..machine.memory import cache_bytes, free_bytes
from ..machine.profile import ExpertShape
from .experts import pool_size
from .timing import time_together

TOKENS = (1, 2, 4, 8, 16, 64, 256)
PRODUCTS = 8  # experts times tokens in a measured call of kernels, at least
FEW = 64  # tokens up to which both kernels are measured; beyond, unpacking in blocks is known to win
READ_BYTES = 64 << 20  # of a measured read
ALIGN = 64  # bytes; experts begin at cache lines

Call = Callable[[int], object]
Way = Callable[["PackedPool", torch.Tensor, int], Call]  # of so many experts, each on all tokens


class FormatRow(NamedTuple):
    """One kernel on one format at one token count, in the best of a few turns.

    `share`: of the rate at which torch reads the same memory in between. `weights_per_s`: of all threads together.
    """

    format: str
    tokens: int
    kernel: str
    gb_per_s: float
    weights_per_s: float
    share: float
    lossless: bool


class FormatTable(NamedTuple):
    """`read_gb_per_s`: the best rate of reads in all of the measurement."""

    read_gb_per_s: float
    rows: list[FormatRow]


class PackedPool:
    """Equal experts in one stretch of memory that no cache holds, or so many of them, an expert a row.

    `down`: its format, where it is not that of gate and up.
    """

    def __init__(self, format_: Format, shape: ExpertShape, down: Format | None = None, count: int = 0) -> None:
        self.shapes: list[Shape] = [(shape.ffn, shape.hidden)] * 2 + [(shape.hidden, shape.ffn)]
        self.formats = [format_, format_, down or format_]
        sizes = [each.num_bytes(shape) for each, shape in zip(self.formats, self.shapes, strict=True)]
        self.expert_bytes = sum(sizes)
        begins = [0]
        for size in sizes:
            begins.append(begins[-1] + -(-size // ALIGN) * ALIGN)
        self.count = count or pool_size(begins[-1], cache_bytes(), free_bytes())
        self.rows = torch.empty((self.count, begins[-1]), dtype=torch.uint8)
        self._begins = begins
        for name_view, weights, each in zip(self.parts(0), self._drawn(), self.formats, strict=True):
            for name, part in each.pack(weights).items():
                name_view[name].copy_(part.view(name_view[name].shape))
        self.rows[1:] = self.rows[0]

    def parts(self, number: int) -> list[Parts]:
        """Gate, up and down of an expert, as they lie."""
        row = self.rows[number % self.count]
        return [views_of(row[a:], *how) for a, how in zip(self._begins, self.matrices, strict=False)]

    @property
    def matrices(self) -> list[tuple[Format, Shape]]:
        """Format and shape of gate, up and down."""
        return list(zip(self.formats, self.shapes, strict=True))

    @property
    def is_served(self) -> bool:
        """Whether packed kernels read these experts."""
        return all(serves(*how) for how in self.matrices)

    def read(self, number: int) -> torch.Tensor:
        """Read as much as a measured read does, elsewhere every time."""
        words = self.rows.view(-1).view(torch.int64)
        size = min(self.read_bytes // 8, len(words))
        begin = number * size % max(len(words) - size, 1)
        return words[begin : begin + size].sum()

    @property
    def read_bytes(self) -> int:
        """Bytes of a measured read."""
        return min(READ_BYTES, self.rows.numel())

    def _drawn(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(each, generator=generator) * each[1] ** -0.5 for each in self.shapes]


def format_table(
    formats: dict[str, Format],
    shape: ExpertShape,
    budget_s: float,
    tokens: Sequence[int] = TOKENS,
    report: Callable[[str], None] = lambda _: None,
) -> FormatTable:
    """All kernels of these formats by name, in about `budget_s` of measuring.

    Raises InputError for a format that cannot store experts of this shape, before anything is measured.
    """
    for format_ in formats.values():
        for each in ((shape.ffn, shape.hidden), (shape.hidden, shape.ffn)):
            format_.num_bytes(each)
    best, rows = 0.0, list[FormatRow]()
    for name, format_ in formats.items():
        report(f"{name}: weights to measure with")
        pool = PackedPool(format_, shape)
        for count in tokens:
            report(f"{name}, {count} tokens")
            read, found = _at(name, pool, shape, count, budget_s / len(formats) / len(tokens))
            best, rows = max(best, read), rows + found
    return FormatTable(best / 1e9, rows)


def _at(name: str, pool: PackedPool, shape: ExpertShape, count: int, budget_s: float) -> tuple[float, list[FormatRow]]:
    """Bytes a second of reads, and the rows of one token count."""
    several = min(max(PRODUCTS // count, 1), pool.count) if pool.is_served else 1
    input_TH = torch.randn(count, shape.hidden).to(torch.bfloat16)  # as models have them
    ways = _ways(pool, count)
    calls = [way(pool, input_TH, several) for way, _ in ways.values()]
    read, *timings = time_together([pool.read, *calls], budget_s)
    read_rate = pool.read_bytes / read.p10_s
    rows = []
    for (kernel, (_, lossless)), timing in zip(ways.items(), timings, strict=True):
        experts_per_s = several / timing.p10_s
        rate, weights = experts_per_s * pool.expert_bytes, experts_per_s * shape.params
        rows.append(FormatRow(name, count, kernel, rate / 1e9, weights, rate / read_rate, lossless))
    return read_rate, rows


def _ways(pool: PackedPool, count: int) -> dict[str, tuple[Way, bool]]:
    """What can compute with a format, by name, and whether it is lossless."""
    if not pool.is_served:
        return {UNPACK.name: (unpacked_call, True)}
    ways: dict[str, tuple[Way, bool]] = {}
    if count <= FEW:
        ways[PACKED.name] = partial(packed_call, PackedKernel(few=ALL)), True
        if all(serves(*how, rounded=True) for how in pool.matrices):
            ways[PACKED_INT8.name] = partial(packed_call, PackedKernel(few=ALL, rounded=True)), False
    return {**ways, UNPACK.name: (partial(packed_call, PackedKernel(few=0)), True)}


def packed_call(kernel: PackedKernel, pool: PackedPool, input_TH: torch.Tensor, several: int) -> Call:
    """Packed kernels: so many experts on all tokens, other experts on every call."""
    found = zip(pool.matrices, pool.parts(0), strict=True)
    gate, up, down = (packed_matrix(how, parts, shape) for (how, shape), parts in found)
    first, rows = ExpertMatrices(gate, up, down), pool.rows
    layer = kernel.pack_rows(first, np.arange(pool.count) * rows.stride(0), [None] * pool.count, rows)
    tokens_S, counts = np.tile(np.arange(len(input_TH)), several), [len(input_TH)] * several

    def call(number: int) -> torch.Tensor:
        active = [(number * several + i) % pool.count for i in range(several)]
        return kernel.swiglu_of_rows(input_TH, tokens_S, layer, active, counts)

    return call


def unpacked_call(pool: PackedPool, input_TH: torch.Tensor, several: int) -> Call:
    """Formats that no packed kernel reads: made fp32 for every call, multiplied by torch."""
    x_TH = input_TH.float()

    def call(number: int) -> None:
        for i in range(several):
            found = zip(pool.matrices, pool.parts(number * several + i), strict=True)
            gate, up, down = (how.unpack(parts, shape, torch.float32) for (how, shape), parts in found)
            F.linear(F.silu(F.linear(x_TH, gate)) * F.linear(x_TH, up), down)

    return call
