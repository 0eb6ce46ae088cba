"""Kernels for activations rounded to bytes: the products of rounded activations, exactly added as whole numbers.

Shapes: T tokens, H hidden, F ffn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from hetsched.cpu_kernels.packed.dots import dot_of
from hetsched.cpu_kernels.packed.kernels import Clamped, PackedKernel
from hetsched.cpu_kernels.packed.lanes import host_features
from hetsched.cpu_kernels.packed.matrix import packed_matrix, serves
from hetsched.cpu_kernels.packed.records import record_of
from hetsched.cpu_kernels.packed.steps import Unpacker
from hetsched.cpu_kernels.packed.unpackers import unpacker_of
from hetsched.formats.fp8_block import Fp8Block
from hetsched.formats.mxfp4 import Mxfp4
from hetsched.formats.q4_0 import Q4_0
from hetsched.formats.q4_k import Q4K
from hetsched.formats.q8_0 import Q8_0
from tests.formats.drawn import FORMATS, label, parts_of
from tests.formats.test_packed import drawn_expert, drawn_matrix, is_near, reference

ROUNDED = [format_ for format_ in FORMATS if unpacker_of(format_, rounded=True)]
CPUS = [frozenset[str](), frozenset({"avx2", "f16c"}), frozenset({"avx2", "f16c", "avx512f", "avx512bw"})]
BLOCK = 32


def rounded(x_TK: torch.Tensor) -> torch.Tensor:
    """What kernels take for the activations, in double precision: of each block the largest is 127 times a scale."""
    blocks = x_TK.view(len(x_TK), -1, BLOCK)
    most = blocks.abs().amax(-1, keepdim=True)
    numbers = (blocks * torch.where(most > 0, 127 / most, 0.0)).round()
    return (numbers.double() * (most / 127).double()).view(x_TK.shape)


@pytest.mark.parametrize("format_", ROUNDED, ids=label)
def test_products_are_those_of_rounded_activations(format_: Any) -> None:
    """One token to nine, rows that are no multiple of four, half-full steps, blocks of zeros and of all sizes."""
    kernel = PackedKernel(1, rounded=True)
    assert not kernel.lossless
    for shape in ((23, 512), (6, 352)):
        if not serves(format_, shape, rounded=True):
            continue
        matrix, weights = drawn_matrix(format_, shape)
        for tokens in (1, 2, 3, 4, 7, 9):
            x_TK = torch.randn((tokens, shape[1]), generator=torch.Generator().manual_seed(tokens))
            x_TK.view(tokens, -1, BLOCK)[:, 1] = 0
            x_TK.view(tokens, -1, BLOCK)[:, 2] *= 1e6
            assert is_near(kernel.linear(x_TK, matrix), rounded(x_TK), weights), f"{tokens} tokens, {shape}"


def record(x_K: torch.Tensor, unpacker: Unpacker) -> npt.NDArray[np.uint8]:
    """What stages make of a token's activations."""
    where, blocks = record_of(unpacker, len(x_K)), x_K.view(-1, BLOCK)
    scale_B = blocks.abs().amax(-1) / 127
    numbers = (blocks / scale_B[:, None]).round()
    made = np.zeros(where.num_bytes, np.uint8)
    made.view(np.int8)[where.put_K] = numbers.flatten().numpy().astype(np.int8)
    made.view(np.float32)[where.scale_K] = np.repeat(scale_B.numpy(), BLOCK)
    if where.total_B[0] >= 0:
        made.view(np.float32)[where.total_B] = -(numbers.sum(1) * scale_B).numpy()
    return made


@pytest.mark.parametrize("format_", [Mxfp4(), Q8_0(), Q4K()], ids=label)
def test_every_cpu_adds_the_same(format_: Any) -> None:
    """Bit for bit: with VNNI, with AVX2's products of bytes and of words, and by what any CPU can do."""
    columns = 512 if format_.block[1] > BLOCK else 288
    matrix, weights = drawn_matrix(format_, (9, columns), seed=2)
    x_K = torch.randn(columns, generator=torch.Generator().manual_seed(1))
    unpacker = matrix.reader(rounded=True)
    x = record(x_K, unpacker)
    found = []
    for features in [host_features(), *(each for each in CPUS if each <= host_features())]:
        dot = dot_of(unpacker, 1, 1, features)

        @njit  # type: ignore[untyped-decorator]
        def one(blocks: int, scales: int, at: int, dot: Any = dot) -> Any:
            return dot((blocks,), (scales,), (at,), columns)[0]

        addresses = [
            (matrix.blocks + r * matrix.row_bytes, matrix.scales + r * matrix.scale_row_bytes) for r in range(9)
        ]
        found.append([one(*each, x.ctypes.data) for each in addresses])
        assert found[-1] == found[0]
    assert is_near(torch.tensor(found[:1]), rounded(x_K[None]), weights)


@given(
    rows=st.integers(1, 9),
    blocks=st.integers(1, 9),
    tokens=st.integers(1, 6),
    power=st.integers(-30, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_any_shape_and_size(rows: int, blocks: int, tokens: int, power: int, seed: int) -> None:
    matrix, weights = drawn_matrix(Q4_0(), (rows, BLOCK * blocks), seed)
    x_TK = torch.randn((tokens, BLOCK * blocks), generator=torch.Generator().manual_seed(seed)) * 2.0**power
    assert is_near(PackedKernel(1, rounded=True).linear(x_TK, matrix), rounded(x_TK), weights)


def test_a_tokens_bits_depend_on_no_company() -> None:
    matrix, _ = drawn_matrix(Mxfp4(), (37, 288))
    x_TK = torch.randn((7, 288), generator=torch.Generator().manual_seed(5))
    together = PackedKernel(1, rounded=True).linear(x_TK, matrix)
    for threads in (1, 2):
        kernel = PackedKernel(threads, rounded=True)
        for first, last in ((0, 1), (0, 2), (1, 4), (2, 6), (0, 5)):
            assert torch.equal(kernel.linear(x_TK[first:last], matrix), together[first:last])


def test_what_is_no_number_stays_none() -> None:
    """In the token that has it, alone."""
    matrix, _ = drawn_matrix(Q8_0(), (5, 64))
    for bad in (float("nan"), float("inf")):
        x_TK = torch.ones(3, 64)
        x_TK[1, 40] = bad
        found = PackedKernel(1, rounded=True).linear(x_TK, matrix)
        assert not found[1].isfinite().any()
        assert found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("clamped", [None, Clamped()], ids=["silu", "clamped"])
def test_experts_round_what_goes_in_and_what_comes_between(clamped: Any) -> None:
    """Both times as little off as bytes can be; threads share out blocks that are rounded together."""
    drawn = [drawn_expert(Mxfp4(), Q8_0(), 96, 96, 10 * e) for e in range(3)]
    x_TH = torch.randn((2, 96), generator=torch.Generator().manual_seed(9))
    found = []
    for threads in (1, 2):
        kernel = PackedKernel(threads, rounded=True)
        layer = kernel.pack_several([expert for expert, _ in drawn])
        found.append(kernel.swiglu_of_several(torch.cat([x_TH, x_TH]), layer, [2, 0], [2, 2], clamped))
        assert torch.equal(found[0], found[-1])
    for part, e in zip(found[0].split(2), (2, 0), strict=True):
        expected = reference(x_TH, drawn[e][1], drawn[e][0].biases, clamped)
        assert 1e-4 < (part.double() - expected).norm() / expected.norm() < 0.02


def test_formats_without_whole_numbers_stay_exact() -> None:
    """FP8 is read as it is, whatever is asked for."""
    shape = (16, 128)
    assert unpacker_of(Fp8Block(), rounded=True) is None
    matrix = packed_matrix(Fp8Block(), parts_of(Fp8Block(), shape), shape)
    x_TK = torch.randn(2, 128)
    assert torch.equal(PackedKernel(1, rounded=True).linear(x_TK, matrix), PackedKernel(1).linear(x_TK, matrix))
