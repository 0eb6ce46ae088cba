"""The inner loop, written once for every format: rows of packed weights times rows of activations.

Each row and token has sixteen sums, added in the end; the order is the same whatever rows and tokens go together, so
that a result's bits do not depend on them. Shapes: R rows, T tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import FLOAT, I8, I64, LANES, Lanes
from .steps import Group, Step, Unpacker

LINE, AHEAD = 64, 1024  # bytes of a cache line; how far on memory is asked for what comes, be it of the next row


class _Walk(NamedTuple):
    """Where a loop is: pointers to the next blocks, scales and activations, each in a place of its own; the sums."""

    blocks_R: list[Any]
    scales_R: list[Any]
    x_T: list[Any]
    sums_RT: list[Any]


def dot_of(unpacker: Unpacker, rows: int, tokens: int, features: frozenset[str]) -> Any:
    """An intrinsic (blocks_R, scales_R, x, x stride, columns) -> R * T sums, rows outermost.

    Addresses and the bytes between tokens are int64, those of rows tuples of them; x is fp32 in the unpacker's order.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def dot(_context: Any, blocks_R: Any, scales_R: Any, x: Any, x_stride: Any, columns: Any) -> Any:
        returned = types.UniTuple(types.float32, rows * tokens)
        places = types.UniTuple(types.int64, rows)

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums = _loops(builder, unpacker, features, rows, tokens, arguments)
            return context.make_tuple(builder, signature.return_type, sums)

        return returned(places, places, types.int64, types.int64, types.int64), build

    return dot


def _loops(
    builder: Any, unpacker: Unpacker, features: frozenset[str], rows: int, tokens: int, arguments: Any
) -> list[Any]:
    blocks_R, scales_R = (cgutils.unpack_tuple(builder, each, rows) for each in arguments[:2])
    x, x_stride, columns = arguments[2:]
    x_T = [builder.add(x, builder.mul(x_stride, ir.Constant(I64, t))) for t in range(tokens)]
    zeros = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
    walk = _Walk(
        [_place(builder, address) for address in blocks_R],
        [_place(builder, address) for address in scales_R],
        [_place(builder, address) for address in x_T],
        [cgutils.alloca_once_value(builder, zeros) for _ in range(rows * tokens)],
    )
    left = columns
    for step in unpacker.steps:
        width = ir.Constant(I64, len(step.columns))
        with cgutils.for_range(builder, builder.sdiv(left, width)):
            _one_step(builder, step, features, walk)
        left = builder.srem(left, width)
    return [Lanes(builder, features).sum_of(builder.load(place)) for place in walk.sums_RT]


def _place(builder: Any, address: Any) -> Any:
    return cgutils.alloca_once_value(builder, builder.inttoptr(address, I8.as_pointer()))


def _one_step(builder: Any, step: Step, features: frozenset[str], walk: _Walk) -> None:
    code, tokens = Lanes(builder, features), len(walk.x_T)
    x_T = [builder.load(place) for place in walk.x_T]
    for r, (blocks, scales) in enumerate(zip(walk.blocks_R, walk.scales_R, strict=True)):
        at, scales_at = builder.load(blocks), builder.load(scales)
        sums_T = walk.sums_RT[r * tokens : (r + 1) * tokens]
        begin = 0
        for line in range(0, step.block_bytes, LINE):
            code.prefetch(at, AHEAD + line)
        for group in step.write(code, at, scales_at):
            _add(code, group, [code.at(x, 4 * begin) for x in x_T], sums_T)
            begin += LANES * len(group.vectors)
        builder.store(code.at(at, step.block_bytes), blocks)
        builder.store(code.at(scales_at, step.scale_bytes), scales)
    for place, x in zip(walk.x_T, x_T, strict=True):
        builder.store(code.at(x, 4 * len(step.columns)), place)


def _add(code: Lanes, group: Group, x_T: list[Any], sums_T: list[Any]) -> None:
    """Add a group's products to the sums of each token; the scale is applied once a group."""
    alone = group.scale is None
    part_T = [code.builder.load(place) if alone else None for place in sums_T]
    for i, weights in enumerate(group.vectors):
        for t, x in enumerate(x_T):
            activations = code.load(x, 4 * LANES * i, FLOAT, LANES)
            part = part_T[t]
            part_T[t] = (
                code.builder.fmul(weights, activations) if part is None else code.fma(weights, activations, part)
            )
    for place, part in zip(sums_T, part_T, strict=True):
        code.builder.store(part if alone else code.fma(part, group.scale, code.builder.load(place)), place)


def wide_of(unpacker: Unpacker, features: frozenset[str]) -> Any:
    """An intrinsic (blocks, scales, out, columns): one row's weights as fp32, in the unpacker's order."""

    @intrinsic  # type: ignore[untyped-decorator]
    def wide(_context: Any, blocks: Any, scales: Any, out: Any, columns: Any) -> Any:
        def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            places = [_place(builder, address) for address in arguments[:3]]
            left = arguments[3]
            for step in unpacker.steps:
                width = ir.Constant(I64, len(step.columns))
                with cgutils.for_range(builder, builder.sdiv(left, width)):
                    _widen(builder, step, features, places)
                left = builder.srem(left, width)
            return cgutils.get_null_value(ir.IntType(64))

        return types.int64(*[types.int64] * 4), build

    return wide


def _widen(builder: Any, step: Step, features: frozenset[str], places: list[Any]) -> None:
    code = Lanes(builder, features)
    blocks, scales, out = (builder.load(place) for place in places)
    written = 0
    for group in step.write(code, blocks, scales):
        for vector in group.vectors:
            scaled = vector if group.scale is None else builder.fmul(vector, group.scale)
            target = builder.bitcast(code.at(out, 4 * written), scaled.type.as_pointer())
            builder.store(scaled, target, align=1)
            written += LANES
    sizes = step.block_bytes, step.scale_bytes, 4 * written
    for place, at, size in zip(places, (blocks, scales, out), sizes, strict=True):
        builder.store(code.at(at, size), place)
