"""Formats unpack to the checkpoint's numbers, bit for bit: as gguf-py and transformers have them, or the layouts."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from hetsched.formats.awq import Awq
from hetsched.formats.fp8_block import Fp8Block
from hetsched.formats.gguf_mxfp4 import GgufMxfp4
from hetsched.formats.gptq import Gptq
from hetsched.formats.int4_group import Int4Group
from hetsched.formats.mxfp4 import Mxfp4
from hetsched.formats.q4_0 import Q4_0
from hetsched.formats.q4_k import Q4K
from hetsched.formats.q6_k import Q6K
from hetsched.formats.q8_0 import Q8_0
from tests.formats.drawn import label, parts_of
from tests.oracles import packed_numbers

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GGUF = {Q8_0: "Q8_0", Q4_0: "Q4_0", Q4K: "Q4_K", Q6K: "Q6_K", GgufMxfp4: "MXFP4"}
SHAPE = (24, 512)


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal to the last bit, signs of zeros included."""
    whole = {4: torch.int32, 2: torch.int16}[found.itemsize]
    return found.dtype == expected.dtype and torch.equal(found.view(whole), expected.contiguous().view(whole))


@pytest.mark.parametrize("format_", [kind() for kind in GGUF], ids=label)
def test_gguf_blocks_are_what_gguf_py_reads(format_: Any) -> None:
    """Every bit of random blocks; rounded to half precision as torch rounds."""
    parts = parts_of(format_, SHAPE)
    read = dequantize(parts["blocks"].numpy(), gguf.GGMLQuantizationType[GGUF[type(format_)]])
    for dtype in DTYPES:
        assert same_bits(format_.unpack(parts, SHAPE, dtype), torch.from_numpy(read).to(dtype))


@pytest.mark.parametrize("format_", [Q8_0(), Q4_0()], ids=label)
@pytest.mark.parametrize("size", [1.0, 1e-30, 0.0])
def test_packing_is_what_gguf_py_writes(format_: Any, size: float) -> None:
    """The published quantisers, ties and blocks of zeros included."""
    weights = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) * size).bfloat16().float()
    weights[0, :32] = torch.arange(32) - 8.5
    weights[0, 0] = 127.0
    expected = quantize(weights.numpy(), gguf.GGMLQuantizationType[GGUF[type(format_)]])
    assert torch.equal(format_.pack(weights)["blocks"], torch.from_numpy(expected))


def test_mxfp4_is_what_transformers_reads() -> None:
    """Every nibble with every exponent, as gpt-oss is dequantised at load."""
    scales = torch.arange(256, dtype=torch.uint8).view(16, 16)
    blocks = torch.arange(16 * 16 * 16).to(torch.uint8).view(16, 16, 16)
    parts = {"blocks": blocks, "scales": scales}
    for dtype in DTYPES:
        read = convert_moe_packed_tensors(blocks[None], scales[None], dtype=dtype)[0].t()
        known = ~read.isnan()  # infinite exponent times zero
        found = Mxfp4().unpack(parts, (16, 512), dtype)
        assert torch.equal(found.isnan(), ~known)
        assert same_bits(found[known], read[known])


@pytest.mark.parametrize("scales", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(256, 384), (64, 128), (48, 40)])
def test_fp8_blocks_are_what_transformers_reads(scales: str, shape: tuple[int, int]) -> None:
    """Where it reads them: matrices of whole blocks, and of less than one."""
    format_ = Fp8Block(scales)
    parts = parts_of(format_, shape)
    reader = Fp8Dequantize(None)
    for dtype in DTYPES:
        read = reader._dequantize_one(parts["weights"], parts["scales"], dtype)
        assert same_bits(format_.unpack(parts, shape, dtype), read)


def test_fp8_blocks_may_be_cut_off() -> None:
    """As in DeepSeek-V3, whose matrices are no multiples of 128: the last blocks are smaller."""
    format_, shape = Fp8Block(), (192, 576)
    parts = parts_of(format_, shape)
    found, wide = format_.unpack(parts, shape, torch.float32), parts["weights"].float()
    for row, column in ((0, 0), (127, 127), (128, 128), (191, 575), (64, 512)):
        assert found[row, column] == wide[row, column] * parts["scales"][row // 128, column // 128]


@pytest.mark.parametrize("format_", [Int4Group(), Int4Group(128, "float16"), Int4Group(64, "float32")], ids=label)
def test_int4_groups_are_what_their_layout_says(format_: Any) -> None:
    shape = (5, 256)
    parts = parts_of(format_, shape)
    expected = packed_numbers.int4_groups(parts["packed"].numpy(), parts["scales"].float().numpy(), format_.group)
    for dtype in DTYPES:
        assert same_bits(format_.unpack(parts, shape, dtype), torch.from_numpy(expected).to(dtype))


@pytest.mark.parametrize("format_", [Gptq(), Gptq(32), Gptq(64, zero_offset=0)], ids=label)
def test_gptq_is_what_its_layout_says(format_: Any) -> None:
    """With and without the group numbers of each column, where these are in order."""
    shape = (16, 256)
    parts = parts_of(format_, shape)
    words = parts["qweight"].numpy(), parts["qzeros"].numpy(), parts["scales"].float().numpy()
    expected = torch.from_numpy(packed_numbers.gptq(*words, format_.group, format_.zero_offset))
    ordered = {**parts, "g_idx": torch.arange(256, dtype=torch.int32) // format_.group}
    for dtype in DTYPES:
        assert same_bits(format_.unpack(parts, shape, dtype), expected.to(dtype))
        assert same_bits(format_.unpack(ordered, shape, dtype), expected.to(dtype))


@pytest.mark.parametrize("format_", [Awq(), Awq(32)], ids=label)
def test_awq_is_what_its_layout_says(format_: Any) -> None:
    shape = (16, 256)
    parts = parts_of(format_, shape)
    words = parts["qweight"].numpy(), parts["qzeros"].numpy(), parts["scales"].float().numpy()
    expected = torch.from_numpy(packed_numbers.awq(*words, format_.group))
    for dtype in DTYPES:
        assert same_bits(format_.unpack(parts, shape, dtype), expected.to(dtype))


def test_mxfp4_packs_as_the_standard_says() -> None:
    """The exponent of the largest, ties to the even mantissa, saturation; exact where nothing is to be rounded."""
    exact = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]).repeat(4)[None] * 2.0**-20
    ties = torch.tensor([4.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]).repeat(4)[None]
    to_even = torch.tensor([4.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]).repeat(4)
    large = torch.full((1, 32), 7.9)
    for weights, expected in ((exact, exact[0]), (ties, to_even), (large, torch.full((32,), 6.0)), (-ties, -to_even)):
        assert torch.equal(Mxfp4().unpack(Mxfp4().pack(weights), (1, 32), torch.float32)[0], expected)
    assert np.array_equal(Mxfp4().pack(exact)["scales"], [[127 - 20]])
