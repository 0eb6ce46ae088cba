"""How each format is read as bytes, for activations rounded to bytes: products are whole numbers until a scale comes.

Weights are unsigned, `less` above what they mean; a step of fewer blocks fills its lanes with zeros, which meet no
activation. As llama.cpp's CPU kernels do it (ggml/src/ggml-cpu/quants.c), with activations rounded by 32 for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from ...formats import Format
from ...types import IntArray
from .k_blocks import MINIMA, scaled_and_less, scales_and_minima, six_bit_bytes
from .lanes import I8, I16, I32, LANES, Lanes
from .steps import FOUR_EACH, Group, Step, Unpacker, in_turn

NIBBLES = 0x0F0F0F0F
TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12)
CODES = [12 + number for number in (*TWICE_E2M1, *(-number for number in TWICE_E2M1))]
HALVES, TURNS = np.array([0, 16]), np.array([0, 1])  # column of a byte's high nibble, from the low one's


def mxfp4(_format: Format) -> Unpacker:
    """Twice the numbers, by a byte shuffle, with half the scale."""

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
            words = _filled(code, code.load(blocks, 0, I32, 4 * count))
            return [_e2m1(code, words, code.load(scales, 0, I8, count), count)]

        return write

    steps = tuple(Step(_four_bits(n, 2, TURNS), 16 * n, n, several(n)) for n in (4, 1))
    return Unpacker("mxfp4", steps, "blocks", "scales", rounded=True, less=12)


def gguf_mxfp4(_format: Format) -> Unpacker:
    """The same with the exponent before each block."""

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
            exponents = code.joined([code.load(blocks, 17 * i, I8) for i in range(count)])
            return [_e2m1(code, _gathered(code, blocks, 17, 1, count), exponents, count)]

        return write

    steps = tuple(Step(_four_bits(n, 1, HALVES), 17 * n, 0, several(n)) for n in (4, 1))
    return Unpacker("gguf-mxfp4", steps, "blocks", rounded=True, less=12)


def q4_0(_format: Format) -> Unpacker:
    """Nibbles as they are."""

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
            scales = code.halves(code.joined([code.load(blocks, 18 * i, I16) for i in range(count)]))
            return [Group(_nibbles(code, _gathered(code, blocks, 18, 2, count)), _by_block(code, scales, count))]

        return write

    steps = tuple(Step(_four_bits(n, 1, HALVES), 18 * n, 0, several(n)) for n in (4, 1))
    return Unpacker("q4_0", steps, "blocks", rounded=True, less=8)


def int4_group(format_: Any) -> Unpacker:
    """compressed-tensors' words; for groups of 32 and 128 alone."""
    wide = {"bfloat16": Lanes.widened, "float16": Lanes.halves}.get(format_.scales)
    if wide is None or format_.group not in (32, 128):
        return Unpacker("int4-group", (), "packed", "scales")

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
            words, groups = _filled(code, code.load(blocks, 0, I32, 4 * count)), 32 * count // format_.group
            found = wide(code, code.load(scales, 0, I16, groups))
            spread = found if groups == count else code.spread(found, [0] * 4)
            return [Group(_nibbles(code, words), _by_block(code, spread, count))]

        return write

    sizes = (4, 1) if format_.group == 32 else (4,)
    steps = [Step(_four_bits(n, 2, TURNS), 16 * n, 2 * n * 32 // format_.group, several(n)) for n in sizes]
    name = f"int4-group-{format_.group}-{format_.scales}"
    return Unpacker(name, tuple(steps), "packed", "scales", rounded=True, less=8)


def q8_0(_format: Format) -> Unpacker:
    """Two blocks a vector, the sign's bit turned."""

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
            scales, groups = code.halves(code.joined([code.load(blocks, 34 * i, I16) for i in range(count)])), []
            for first in range(0, count, 2):
                pair = range(first, min(first + 2, count))
                words = _filled(code, code.in_one([code.load(blocks, 34 * i + 2, I32, 8) for i in pair]))
                turned = code.builder.xor(words, ir.Constant(words.type, [0x80808080] * LANES))
                groups.append(Group([turned], code.spread(scales, [pair[0]] * 8 + [pair[-1]] * 8)))
            return groups

        return write

    one = np.concatenate([in_turn(32), np.full(32, -1)])
    steps = Step(in_turn(128), 136, 0, several(4), groups=2), Step(one, 34, 0, several(1))
    return Unpacker("q8_0", steps, "blocks", rounded=True, less=128, most=255)


def q4_k(_format: Format) -> Unpacker:
    """Each half of a block's nibbles, with the minima of their groups."""

    def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        factors, groups = scales_and_minima(code, blocks), []
        for half in (0, 1):
            for high, words in enumerate(_nibbles(code, code.load(blocks, 16 + 64 * half, I32, LANES))):
                groups.append(scaled_and_less(code, [words], factors, half, high))
        return [*groups, Group((), totals=factors)]

    half, high, lane, byte = np.ogrid[:2, :2, :LANES, :4]
    columns = 128 * half + 64 * (lane // 8) + 32 * high + 4 * (lane % 8) + byte
    step = Step(columns.reshape(-1), 144, 0, write, groups=4, totals=MINIMA)
    return Unpacker("q4_k", (step,), "blocks", rounded=True)


def q6_k(_format: Format) -> Unpacker:
    """Numbers as they are stored, 32 above what they mean."""

    def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        whole, groups = code.spread(code.halves(code.load(blocks, 208, I16, 1)), [0] * 8), []
        for half in (0, 1):
            scales = code.builder.fmul(code.signed_bytes(code.load(blocks, 192 + 8 * half, I8, 8)), whole)
            for high, words in enumerate(six_bit_bytes(code, blocks, half)):
                groups.append(Group([words], code.spread(scales, [lane + 4 * high for lane in FOUR_EACH])))
        return groups

    return Unpacker("q6_k", (Step(in_turn(256), 210, 0, write, groups=4),), "blocks", rounded=True, less=32)


ROUNDED_WRITERS: dict[str, Callable[[Any], Unpacker]] = {
    "mxfp4": mxfp4,
    "gguf-mxfp4": gguf_mxfp4,
    "q8_0": q8_0,
    "q4_0": q4_0,
    "q4_k": q4_k,
    "q6_k": q6_k,
    "int4-group": int4_group,
}


def _four_bits(count: int, apart: int, high: IntArray) -> IntArray:
    """Columns of so many blocks of 16 bytes: the low nibbles' of a byte `apart` each, the high ones' `high` from it."""
    nibble, block, byte = np.ogrid[:2, :4, :16]
    columns = 32 * block + apart * byte + high[nibble]
    return np.asarray(np.where(block < count, columns, -1), np.int64).reshape(-1)


def _nibbles(code: Lanes, words: Any) -> list[Any]:
    return [code.masked(code.shifted(words, shift), NIBBLES) for shift in (0, 4)]


def _e2m1(code: Lanes, words: Any, exponents: Any, count: int) -> Group:
    scale = code.powers(exponents, [min(lane, count - 1) for lane in FOUR_EACH])
    half = code.builder.fmul(scale, code.number(0.5))
    return Group([code.bytes_named(CODES, codes) for codes in _nibbles(code, words)], half)


def _by_block(code: Lanes, scales: Any, count: int) -> Any:
    return code.spread(scales, [min(lane, count - 1) for lane in FOUR_EACH])


def _gathered(code: Lanes, blocks: Any, block_bytes: int, begin: int, count: int) -> Any:
    return _filled(code, code.in_one([code.load(blocks, block_bytes * i + begin, I32, 4) for i in range(count)]))


def _filled(code: Lanes, words: Any) -> Any:
    """Sixteen words, zeros behind those that there are."""
    count = words.type.count
    if count == LANES:
        return words
    zeros = ir.Constant(words.type, [0] * count)
    lanes = [min(lane, count) for lane in range(LANES)]
    return code.builder.shuffle_vector(words, zeros, ir.Constant(ir.VectorType(I32, LANES), lanes))
