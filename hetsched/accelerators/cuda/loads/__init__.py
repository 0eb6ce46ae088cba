"""How the decode kernels read each format of hetsched.formats: one small device function each."""

from __future__ import annotations

from typing import Any

from . import fp8_block, gguf, plain, words
from .load import Load

__all__ = ["LOADS", "Load", "load_of"]

LOADS = {
    "fp32": plain.fp32,
    "bf16": plain.bf16,
    "fp16": plain.fp16,
    "fp8-block": fp8_block.fp8_block,
    "mxfp4": words.mxfp4,
    "int4-group": words.int4_group,
    "gptq": words.gptq,
    "awq": words.awq,
    "gguf-mxfp4": gguf.gguf_mxfp4,
    "q8_0": gguf.q8_0,
    "q4_0": gguf.q4_0,
    "q4_k": gguf.q4_k,
    "q6_k": gguf.q6_k,
}


def load_of(format_: Any) -> Load | None:
    """How the kernels read a format; None for one that they do not, or not with these arguments."""
    made = LOADS.get(format_.name)
    return None if made is None else made(format_)
