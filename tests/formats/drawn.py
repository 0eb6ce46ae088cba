"""Random parts of a matrix in a format: all bits of numbers, scales as wide as a checkpoint could have them."""

from __future__ import annotations

from typing import Any

import torch

from hetsched.formats import Format, Shape
from hetsched.formats.awq import Awq
from hetsched.formats.fp8_block import Fp8Block
from hetsched.formats.gguf_mxfp4 import GgufMxfp4
from hetsched.formats.gptq import Gptq
from hetsched.formats.int4_group import Int4Group
from hetsched.formats.mxfp4 import Mxfp4
from hetsched.formats.plain import Bf16, Fp16, Fp32
from hetsched.formats.q4_0 import Q4_0
from hetsched.formats.q4_k import Q4K
from hetsched.formats.q6_k import Q6K
from hetsched.formats.q8_0 import Q8_0

FORMATS: list[Format] = [
    Fp32(), Bf16(), Fp16(), Mxfp4(), GgufMxfp4(), Fp8Block(), Fp8Block("bfloat16"), Q8_0(), Q4_0(), Q4K(), Q6K(),
    Int4Group(), Int4Group(128, "float16"), Gptq(), Gptq(32, zero_offset=0), Awq(), Awq(32),
]  # fmt: skip
HALVES = {"q8_0": (0,), "q4_0": (0,), "q4_k": (0, 2), "q6_k": (208,)}  # where blocks have scales in fp16


def label(format_: Any) -> str:
    """A name for a test."""
    given = [str(value) for key, value in vars(format_).items() if key in ("group", "scales", "zero_offset")]
    return "-".join([format_.name, *given])


def parts_of(format_: Format, shape: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random parts; every weight is finite."""
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for part in format_.parts(shape):
        dtype = getattr(torch, part.dtype)
        if dtype in (torch.float32, torch.float16, torch.bfloat16):
            parts[part.name] = torch.randn(part.shape, generator=generator).to(dtype)
        else:
            size = (part.num_bytes,)
            parts[part.name] = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
            parts[part.name] = parts[part.name].view(dtype).view(part.shape)
    if format_.name == "fp8-block":
        bits = parts["weights"].view(torch.uint8)
        bits[(bits & 127) == 127] = 0  # no numbers
    elif format_.name == "mxfp4":
        parts["scales"] = torch.randint(100, 140, parts["scales"].shape, generator=generator, dtype=torch.uint8)
    elif "blocks" in parts:
        blocks = parts["blocks"].view(-1, format_.block_bytes)  # type: ignore[attr-defined]
        for begin in HALVES.get(format_.name, ()):
            halves = torch.randn((len(blocks), 1), generator=generator).half()
            blocks[:, begin : begin + 2] = halves.view(torch.uint8)
        if format_.name == "gguf-mxfp4":
            blocks[:, 0] = torch.randint(100, 140, (len(blocks),), generator=generator, dtype=torch.uint8)
    return parts
