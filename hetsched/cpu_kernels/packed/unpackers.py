"""How each format is unpacked in registers; GGUF's blocks of 256 are in `k_blocks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from ...formats import Format
from ...types import IntArray
from .k_blocks import q4_k, q6_k
from .lanes import FLOAT, I8, I16, I32, LANES, Lanes
from .steps import FOUR_EACH, Group, Step, Unpacker, by_nibble, by_nibble_in_halves, in_turn
from .whole_steps import ROUNDED_WRITERS


def mxfp4(_format: Format) -> Unpacker:
    """gpt-oss's layout: four blocks as 16 words, their exponents spread over the lanes of their words."""

    def four(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
        words = code.load(blocks, 0, I32, LANES)
        scale = code.powers(code.load(scales, 0, I8, 4), FOUR_EACH)
        return [Group([code.e2m1(words, 4 * i) for i in range(8)], scale)]

    def one(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
        words = _bytes_as_words(code, code.load(blocks, 0, I8, LANES))
        scale = code.powers(code.load(scales, 0, I8, 1), [0] * LANES)
        return [Group([code.e2m1(words, 0), code.e2m1(words, 4)], scale)]

    steps = Step(by_nibble(), 64, 4, four), Step(_evens_and_odds(), 16, 1, one)
    return Unpacker("mxfp4", steps, "blocks", "scales")


def gguf_mxfp4(_format: Format) -> Unpacker:
    """The same numbers with the exponent before each block."""

    def four(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        words = _gathered(code, blocks, 17, 1)
        exponents = code.joined([code.load(blocks, 17 * i, I8) for i in range(4)])
        return [Group([code.e2m1(words, 4 * i) for i in range(8)], code.powers(exponents, FOUR_EACH))]

    def one(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        words = _bytes_as_words(code, code.load(blocks, 1, I8, LANES))
        scale = code.powers(code.load(blocks, 0, I8, 1), [0] * LANES)
        return [Group([code.e2m1(words, 0), code.e2m1(words, 4)], scale)]

    return Unpacker("gguf-mxfp4", (Step(by_nibble_in_halves(32), 68, 0, four), Step(in_turn(32), 17, 0, one)), "blocks")


def q4_0(_format: Format) -> Unpacker:
    """Four blocks gathered into 16 words."""

    def four(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        words = _gathered(code, blocks, 18, 2)
        scales = code.halves(code.joined([code.load(blocks, 18 * i, I16) for i in range(4)]))
        return [Group([code.fourths(words, 4 * i) for i in range(8)], code.spread(scales, FOUR_EACH))]

    def one(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        words = _bytes_as_words(code, code.load(blocks, 2, I8, LANES))
        scale = code.spread(code.halves(code.load(blocks, 0, I16, 1)), [0] * LANES)
        return [Group([code.fourths(words, 0), code.fourths(words, 4)], scale)]

    return Unpacker("q4_0", (Step(by_nibble_in_halves(32), 72, 0, four), Step(in_turn(32), 18, 0, one)), "blocks")


def q8_0(_format: Format) -> Unpacker:
    """A block is two vectors; four blocks a step, whose scales are widened together."""

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
            scales = code.halves(code.joined([code.load(blocks, 34 * i, I16) for i in range(count)]))
            groups = []
            for i in range(count):
                halves = [code.load(blocks, 34 * i + 2 + LANES * half, I8, LANES) for half in (0, 1)]
                groups.append(Group([code.signed_bytes(half) for half in halves], code.spread(scales, [i] * LANES)))
            return groups

        return write

    return Unpacker("q8_0", tuple(Step(in_turn(32 * n), 34 * n, 0, several(n)) for n in (4, 1)), "blocks")


def int4_group(format_: Any) -> Unpacker:
    """compressed-tensors' words: nibbles in the order of columns, scales apart. For groups of 32 and 128 alone."""
    wide = {"bfloat16": Lanes.widened, "float16": Lanes.halves}.get(format_.scales)
    groups = 128 // format_.group if format_.group in (32, 128) else 0
    if wide is None or not groups:
        return Unpacker("int4-group", (), "packed", "scales")

    def four(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
        words = code.load(blocks, 0, I32, LANES)
        scale = code.spread(
            wide(code, code.load(scales, 0, I16, groups)), [lane * groups // LANES for lane in range(16)]
        )
        return [Group([code.fourths(words, 4 * i) for i in range(8)], scale)]

    def one(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
        words = _bytes_as_words(code, code.load(blocks, 0, I8, LANES))
        scale = code.spread(wide(code, code.load(scales, 0, I16, 1)), [0] * LANES)
        return [Group([code.fourths(words, 0), code.fourths(words, 4)], scale)]

    steps = [Step(by_nibble(), 64, 2 * groups, four)]
    steps += [Step(_evens_and_odds(), 16, 2, one)] if groups == 4 else []
    name = f"int4-group-{format_.group}-{format_.scales}"
    return Unpacker(name, tuple(steps), "packed", "scales")


def fp8_block(format_: Any) -> Unpacker:
    """e4m3 bits moved to where fp16 has them are the number over 256. Not for what is no number."""

    def scale_of(code: Lanes, scales: Any) -> Any:
        if format_.scales == "float32":
            found = code.load(scales, 0, FLOAT, 1)
        else:
            found = code.widened(code.load(scales, 0, I16, 1))
        return code.spread(code.builder.fmul(found, code.number(256.0, 1)), [0] * LANES)

    def several(count: int) -> Callable[[Lanes, Any, Any], list[Group]]:
        def write(code: Lanes, blocks: Any, scales: Any) -> list[Group]:
            vectors = [vector for i in range(count) for vector in _e4m3(code, code.load(blocks, 32 * i, I8, 32))]
            return [Group(vectors, scale_of(code, scales))]

        return write

    scale_bytes = 4 if format_.scales == "float32" else 2
    steps = Step(in_turn(128), 128, scale_bytes, several(4)), Step(in_turn(32), 32, 0, several(1))
    return Unpacker(f"fp8-block-{format_.scales}", steps, "weights", "scales", 128)


def bf16(_format: Format) -> Unpacker:
    """Moved to the upper half of a word."""
    return _plain("bf16", 2, lambda code, at, offset: code.widened(code.load(at, offset, I16, LANES)))


def fp16(_format: Format) -> Unpacker:
    """The CPU's own conversion."""
    return _plain("fp16", 2, lambda code, at, offset: code.halves(code.load(at, offset, I16, LANES)))


def fp32(_format: Format) -> Unpacker:
    """As they are."""
    return _plain("fp32", 4, lambda code, at, offset: code.load(at, offset, FLOAT, LANES))


def _plain(name: str, item_bytes: int, read: Callable[[Lanes, Any, int], Any]) -> Unpacker:
    def write(code: Lanes, blocks: Any, _scales: Any) -> list[Group]:
        return [Group([read(code, blocks, 0), read(code, blocks, item_bytes * LANES)])]

    return Unpacker(name, (Step(in_turn(32), 32 * item_bytes, 0, write),), "weights")


def _evens_and_odds() -> IntArray:
    return np.concatenate([np.arange(0, 32, 2), np.arange(1, 32, 2)])


def _bytes_as_words(code: Lanes, numbers: Any) -> Any:
    return code.builder.zext(numbers, ir.VectorType(I32, LANES))


def _gathered(code: Lanes, blocks: Any, block_bytes: int, begin: int) -> Any:
    """The numbers of four blocks, four words each, as one vector."""
    parts = [code.load(blocks, block_bytes * i + begin, I32, 4) for i in range(4)]
    return code.low_and_high(code.low_and_high(*parts[:2]), code.low_and_high(*parts[2:]))


def _e4m3(code: Lanes, numbers: Any) -> list[Any]:
    """32 of them, over 256."""
    words = code.builder.sext(numbers, ir.VectorType(I16, 32))
    moved = code.masked(code.builder.shl(words, code.whole(7, words)), 0xBFFF)
    return [code.halves(code.spread(moved, range(first, first + LANES))) for first in (0, LANES)]


WRITERS: dict[str, Callable[[Any], Unpacker]] = {
    "fp32": fp32,
    "bf16": bf16,
    "fp16": fp16,
    "mxfp4": mxfp4,
    "gguf-mxfp4": gguf_mxfp4,
    "fp8-block": fp8_block,
    "q8_0": q8_0,
    "q4_0": q4_0,
    "q4_k": q4_k,
    "q6_k": q6_k,
    "int4-group": int4_group,
}


_MADE: dict[tuple[str, bool], Unpacker] = {}
_KNOWN: dict[tuple[int, bool], tuple[Format, Unpacker | None]] = {}  # by the format's id, which lives as long


def unpacker_of(format_: Format, rounded: bool = False) -> Unpacker | None:
    """How a format is unpacked in registers, for activations as they are or rounded to bytes; None where it is not."""
    known = _KNOWN.get((id(format_), rounded))
    if known is None:
        known = _KNOWN[id(format_), rounded] = format_, _made(format_, rounded)
    return known[1]


def _made(format_: Format, rounded: bool) -> Unpacker | None:
    writer = (ROUNDED_WRITERS if rounded else WRITERS).get(format_.name)
    if writer is None:
        return None
    made = writer(format_)
    return _MADE.setdefault((made.name, rounded), made) if made.steps else None
