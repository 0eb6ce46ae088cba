"""GGUF's blocks of 256 in registers, 64 bytes of numbers at a time; see the formats q4_k and q6_k."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ...formats import Format
from ...types import IntArray
from .lanes import FLOAT, I8, I16, I32, LANES, Lanes
from .steps import FOUR_EACH, Group, Step, Unpacker

LOW_NIBBLES, LOW_PAIRS, SIX_BITS = 0x0F0F0F0F, 0x03030303, 0x3F3F3F3F  # of the four bytes of a word


def q4_k(_format: Format) -> Unpacker:
    """Two groups of 64 numbers as 16 words: low nibbles have a scale and a minimum, high ones others; by half blocks."""

    def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        factors, groups = scales_and_minima(code, blocks), []
        for first in (0, 4):
            words = code.load(blocks, 16 + 16 * first, I32, LANES)
            for high in (0, 1):
                lanes = [first + high] * 8 + [first + high + 2] * 8
                vectors = [code.unsigned_fourths(words, 8 * byte + 4 * high) for byte in range(4)]
                less = code.spread(factors, [8 + lane for lane in lanes])
                groups.append(Group(vectors, code.spread(factors, lanes), less))
        return groups

    return Unpacker("q4_k", (Step(_q4_k_columns(), 144, 0, write),), "blocks")


def q6_k(_format: Format) -> Unpacker:
    """64 low nibbles with 32 pairs of high bits twice over, then the high nibbles; all of it for both halves."""

    def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        whole = code.spread(code.halves(code.load(blocks, 208, I16, 1)), [0] * 8)
        groups = []
        for half in (0, 1):
            scales = code.builder.fmul(code.signed_bytes(code.load(blocks, 192 + 8 * half, I8, 8)), whole)
            for high, words in enumerate(_signed(code, six_bit_bytes(code, blocks, half))):
                lanes = [lane + 4 * high for lane in FOUR_EACH]
                groups.append(Group([code.byte_of_each(words, k) for k in range(4)], code.spread(scales, lanes)))
        return groups

    return Unpacker("q6_k", (Step(_q6_k_columns(), 210, 0, write),), "blocks")


def scales_and_minima(code: Lanes, blocks: Any) -> Any:
    """Eight scales and eight minima with their sign turned, as floats."""
    first, second, third = (code.load(blocks, begin, I32) for begin in (4, 8, 12))
    packed = [
        code.masked(first, SIX_BITS),
        _with_high_pairs(code, code.masked(third, LOW_NIBBLES), first),
        code.masked(second, SIX_BITS),
        _with_high_pairs(code, code.masked(code.shifted(third, 4), LOW_NIBBLES), second),
    ]
    numbers = code.builder.bitcast(code.joined(packed), ir.VectorType(I8, LANES))
    floats = code.builder.sitofp(code.builder.zext(numbers, ir.VectorType(I32, LANES)), ir.VectorType(FLOAT, LANES))
    sign = ir.Constant(ir.VectorType(FLOAT, LANES), [1.0] * 8 + [-1.0] * 8)
    halves = code.spread(code.halves(code.load(blocks, 0, I16, 2)), [0] * 8 + [1] * 8)
    return code.builder.fmul(floats, code.builder.fmul(halves, sign))


def _with_high_pairs(code: Lanes, low: Any, word: Any) -> Any:
    """Four low nibbles below the highest two bits of four bytes."""
    pairs = code.masked(code.shifted(word, 6), LOW_PAIRS)
    return code.builder.or_(low, code.builder.shl(pairs, code.whole(4, pairs)))


def six_bit_bytes(code: Lanes, blocks: Any, half: int) -> list[Any]:
    """The numbers of half a block, a byte each, 32 too large: of the low nibbles, of the high ones."""
    low = code.load(blocks, 64 * half, I32, LANES)
    pairs = code.spread(code.load(blocks, 128 + 32 * half, I32, 8), [*range(8), *range(8)])
    places = ir.Constant(pairs.type, [0] * 8 + [2] * 8)
    pairs = code.builder.lshr(pairs, places)
    made = []
    for shift in (0, 4):
        high = code.masked(code.shifted(pairs, shift), LOW_PAIRS)
        nibbles = code.masked(code.shifted(low, shift), LOW_NIBBLES)
        made.append(code.builder.or_(nibbles, code.builder.shl(high, code.whole(4, high))))
    return made


def _signed(code: Lanes, vectors: list[Any]) -> list[Any]:
    """The bytes less 32."""
    wide = [code.builder.bitcast(vector, ir.VectorType(I8, 64)) for vector in vectors]
    return [code.builder.bitcast(code.builder.sub(each, code.whole(32, each)), vectors[0].type) for each in wide]


def _q4_k_columns() -> IntArray:
    """Of each half block: low nibbles, then high ones; of these, bytes of a word, then words of two groups."""
    half, high, byte, lane = np.ogrid[:2, :2, :4, :LANES]
    group, word = 2 * half + lane // 8, lane % 8
    return np.asarray(64 * group + 32 * high + 4 * word + byte, np.int64).reshape(-1)


def _q6_k_columns() -> IntArray:
    """Of each half block: low nibbles and high ones, bytes of a word, words of both pairs of 32."""
    half, high, byte, lane = np.ogrid[:2, :2, :4, :LANES]
    return np.asarray(128 * half + 64 * high + 32 * (lane // 8) + 4 * (lane % 8) + byte, np.int64).reshape(-1)
