"""GGUF's blocks of 256 in registers, 64 bytes of numbers at a time; see the formats q4_k and q6_k."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ...formats import Format
from ...types import IntArray
from .lanes import FLOAT, I8, I16, I32, I64, LANES, Lanes
from .steps import FOUR_EACH, Group, Step, Unpacker

LOW_NIBBLES, LOW_PAIRS, HIGH_PAIRS, SIX_BITS = 0x0F0F0F0F, 0x03030303, 0x30303030, 0x3F3F3F3F  # of four bytes
MINIMA = (4, 5, 6, 7, 12, 13, 14, 15)  # where scales_and_minima has them


def q4_k(_format: Format) -> Unpacker:
    """Half a block as 16 words: low nibbles have a scale and a minimum, high ones others."""

    def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        factors, groups = scales_and_minima(code, blocks), []
        for half in (0, 1):
            words = code.load(blocks, 16 + 64 * half, I32, LANES)
            for high in (0, 1):
                vectors = [code.unsigned_fourths(words, 8 * byte + 4 * high) for byte in range(4)]
                groups.append(scaled_and_less(code, vectors, factors, half, high))
        return [*groups, Group((), totals=factors)]

    return Unpacker("q4_k", (Step(_q4_k_columns(), 144, 0, write, totals=MINIMA),), "blocks")


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
    """Four scales, their minima, four scales, their minima, as floats; all in two words until then."""
    first, last = code.load(blocks, 4, I64), code.builder.zext(code.load(blocks, 12, I32), I64)
    nibbles = code.masked(code.builder.or_(last, code.builder.shl(last, code.whole(28, last))), _twice(LOW_NIBBLES))
    pairs = code.masked(code.shifted(first, 2), _twice(HIGH_PAIRS))
    words = [code.masked(first, _twice(SIX_BITS)), code.builder.or_(nibbles, pairs)]
    both = code.low_and_high(*(code.builder.bitcast(word, ir.VectorType(I8, 8)) for word in words))
    floats = code.builder.sitofp(code.builder.zext(both, ir.VectorType(I32, LANES)), ir.VectorType(FLOAT, LANES))
    halves = code.spread(code.load(blocks, 0, I16, 2), ([0] * 4 + [1] * 4) * 2)
    return code.builder.fmul(floats, code.halves(halves))


def _twice(mask: int) -> int:
    return mask | mask << 32


def scaled_and_less(code: Lanes, vectors: list[Any], factors: Any, half: int, high: int) -> Group:
    """The numbers of two groups of 32, the second in the upper lanes."""
    first = 8 * half + high
    lanes = [first] * 8 + [first + 2] * 8
    less = code.builder.fneg(code.spread(factors, [4 + lane for lane in lanes]))
    return Group(vectors, code.spread(factors, lanes), less)


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
