"""Kernels on packed weights compute with the checkpoint's numbers, whatever the CPU, tokens, threads and shapes.

Shapes: T tokens, H hidden, F ffn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hetsched.cpu_kernels.packed.kernels import Clamped, PackedKernel
from hetsched.cpu_kernels.packed.lanes import host_features
from hetsched.cpu_kernels.packed.matrix import ExpertMatrices, PackedMatrix, packed_matrix, serves
from hetsched.cpu_kernels.packed.unpackers import unpacker_of
from hetsched.errors import InputError
from hetsched.formats.fp8_block import Fp8Block
from hetsched.formats.gguf_mxfp4 import GgufMxfp4
from hetsched.formats.int4_group import Int4Group
from hetsched.formats.mxfp4 import Mxfp4
from hetsched.formats.q4_0 import Q4_0
from hetsched.formats.q4_k import Q4K
from hetsched.formats.q6_k import Q6K
from hetsched.formats.q8_0 import Q8_0
from tests.formats.drawn import FORMATS, label, parts_of

READ = [format_ for format_ in FORMATS if unpacker_of(format_)]
TOLERANCE = 2e-6  # of the products' size: fp32 sums of a few hundred in another order
CPUS = [frozenset[str](), frozenset({"avx2", "f16c"}), frozenset({"avx2", "f16c", "avx512f"})]


def drawn_matrix(format_: Any, shape: tuple[int, int], seed: int = 0) -> tuple[PackedMatrix, torch.Tensor]:
    """A random matrix, and its weights in double precision."""
    parts = parts_of(format_, shape, seed)
    return packed_matrix(format_, parts, shape), format_.unpack(parts, shape, torch.float32).double()


def is_near(found: torch.Tensor, x_TK: torch.Tensor, weights_NK: torch.Tensor) -> bool:
    """Against the sum in double precision, relative to the sum of sizes."""
    expected, size = x_TK.double() @ weights_NK.t(), x_TK.double().abs() @ weights_NK.abs().t()
    return bool(((found.double() - expected).abs() <= TOLERANCE * size).all())


@pytest.mark.parametrize("format_", READ, ids=label)
def test_products_are_those_of_the_unpacked_weights(format_: Any) -> None:
    """One token to nine, and as many as are unpacked in blocks; rows that are no multiple of four, half-full steps."""
    kernel = PackedKernel(few=8)
    for shape in ((23, 512), (70, 352)):
        if not serves(format_, shape):
            continue
        matrix, weights = drawn_matrix(format_, shape)
        for tokens in (1, 2, 3, 4, 5, 7, 8, 9):
            x_TK = torch.randn((tokens, shape[1]), generator=torch.Generator().manual_seed(tokens))
            assert is_near(kernel.linear(x_TK, matrix), x_TK, weights), f"{tokens} tokens, {shape}"


@pytest.mark.parametrize("features", CPUS, ids=lambda found: "+".join(sorted(found)) or "plain")
@pytest.mark.parametrize("format_", [Mxfp4(), GgufMxfp4(), Q4_0(), Q4K(), Q6K(), Fp8Block(), Int4Group()], ids=label)
def test_every_way_to_unpack_gives_the_same_weights(format_: Any, features: frozenset[str]) -> None:
    """Each weight by itself: by the tables of AVX-512 and AVX2, and by what any CPU can do."""
    if not features <= host_features():
        pytest.skip(f"this CPU lacks {', '.join(sorted(features - host_features()))}")
    shape = (5, 416) if format_.block[1] < 256 else (5, 512)
    matrix, weights = drawn_matrix(format_, shape, seed=4)
    found = PackedKernel(1, features=features).unpacked_into(torch.empty(shape), matrix)
    assert torch.equal(found.double(), weights[:, matrix.unpacker.order(shape[1])])


@pytest.mark.parametrize("format_", [Mxfp4(), Fp8Block()], ids=label)
def test_a_tokens_bits_depend_on_no_company(format_: Any) -> None:
    """Alone, with others, on one thread or more."""
    matrix, _ = drawn_matrix(format_, (37, 288))
    x_TK = torch.randn((8, 288), generator=torch.Generator().manual_seed(5))
    together = PackedKernel(1).linear(x_TK, matrix)
    for threads in (1, 2):
        kernel = PackedKernel(threads)
        for first, last in ((0, 1), (0, 2), (1, 4), (2, 6), (0, 5)):
            assert torch.equal(kernel.linear(x_TK[first:last], matrix), together[first:last])


def drawn_expert(inner: Any, outer: Any, hidden: int, ffn: int, seed: int) -> tuple[ExpertMatrices, list[torch.Tensor]]:
    """An expert with biases, of weights as large as a model's, and its weights in double precision."""
    generator = torch.Generator().manual_seed(seed)
    matrices, weights = [], []
    for format_, shape in ((inner, (ffn, hidden)), (inner, (ffn, hidden)), (outer, (hidden, ffn))):
        parts = format_.pack(torch.randn(shape, generator=generator) * shape[1] ** -0.5)
        matrices.append(packed_matrix(format_, parts, shape))
        weights.append(format_.unpack(parts, shape, torch.float32).double())
    biases = tuple(torch.randn(size, generator=generator) for size in (ffn, ffn, hidden))
    return ExpertMatrices(*matrices, biases), weights


def reference(x_TH: torch.Tensor, weights: list[torch.Tensor], biases: Any, clamped: Clamped | None) -> torch.Tensor:
    """In double precision, step by step as GptOssExperts and any SwiGLU have it."""
    gate, up = x_TH.double() @ weights[0].t(), x_TH.double() @ weights[1].t()
    if biases:
        gate, up = gate + biases[0].double(), up + biases[1].double()
    if clamped:
        gate, up = gate.clamp(max=clamped.limit), up.clamp(-clamped.limit, clamped.limit)
        inner = (up + 1) * gate * torch.sigmoid(gate * clamped.alpha)
    else:
        inner = gate * torch.sigmoid(gate) * up
    out = inner @ weights[2].t()
    return out + biases[2].double() if biases else out


@pytest.mark.parametrize(("inner", "outer"), [(Mxfp4(), Mxfp4()), (Q4_0(), Q8_0())], ids=label)
@pytest.mark.parametrize("clamped", [None, Clamped()], ids=["silu", "clamped"])
@pytest.mark.parametrize("counts", [[1, 1], [3, 1, 6], [2, 40, 1], [50]], ids=str)
def test_experts_of_a_layer_go_in_one_call(inner: Any, outer: Any, clamped: Any, counts: list[int]) -> None:
    """Gate and up of one format, down of another, biases, few tokens and many, some experts left out."""
    drawn = [drawn_expert(inner, outer, 96, 64, 10 * e) for e in range(4)]
    kernel, active = PackedKernel(), [3, 0, 2][: len(counts)]
    x_SH = torch.randn((sum(counts), 96), generator=torch.Generator().manual_seed(9)) * 4
    for with_biases in (True, False):
        experts = [expert if with_biases else expert._replace(biases=None) for expert, _ in drawn]
        found = kernel.swiglu_of_several(x_SH, kernel.pack_several(experts), active, counts, clamped)
        for part, x_TH, e in zip(found.split(counts), x_SH.split(counts), active, strict=True):
            expected = reference(x_TH, drawn[e][1], experts[e].biases, clamped)
            assert (part.double() - expected).norm() <= 1e-6 * expected.norm()


def test_rows_of_a_stack_are_matrices_of_their_own() -> None:
    """gpt-oss has gate and up in turns, others one above the other; FP8's scales must begin where rows do."""
    parts, x_TK = parts_of(Mxfp4(), (12, 64)), torch.randn((1, 64), generator=torch.Generator().manual_seed(6))
    stack, weights = packed_matrix(Mxfp4(), parts, (12, 64)), Mxfp4().unpack(parts, (12, 64), torch.float32).double()
    kernel = PackedKernel(1)
    assert is_near(kernel.linear(x_TK, stack.every(2, 1)), x_TK, weights[1::2])
    assert is_near(kernel.linear(x_TK, stack.rows(6, 12)), x_TK, weights[6:])
    blocks, weights = drawn_matrix(Fp8Block(), (300, 64))
    assert is_near(kernel.linear(x_TK, blocks.rows(128, 300)), x_TK, weights[128:])
    with pytest.raises(InputError, match="none can begin at row 100"):
        blocks.rows(100, 300)


def test_what_no_kernel_reads_is_refused() -> None:
    """A shape that steps do not divide; FP8 that is no number, which the bits moved would make 480."""
    assert not serves(Fp8Block(), (16, 100))
    with pytest.raises(InputError, match="unpack them"):
        packed_matrix(Fp8Block(), Fp8Block().pack(torch.zeros(16, 100)), (16, 100))
    parts = Fp8Block().pack(torch.zeros(16, 128))
    parts["weights"].view(torch.uint8)[3, 3] = 0xFF
    with pytest.raises(InputError, match="no numbers"):
        packed_matrix(Fp8Block(), parts, (16, 128))


def test_matrices_are_read_where_they_lie() -> None:
    """No copy: a change of the stored bytes shows."""
    parts = Q8_0().pack(torch.ones(4, 64))
    matrix = packed_matrix(Q8_0(), parts, (4, 64))
    parts["blocks"].zero_()
    assert not np.any(PackedKernel(1).linear(torch.ones(1, 64), matrix).numpy())
