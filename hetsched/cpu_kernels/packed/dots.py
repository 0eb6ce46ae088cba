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

from .lanes import FLOAT, I8, I32, I64, LANES, Lanes
from .steps import VECTOR_BYTES, Group, Step, Unpacker

LINE, AHEAD = 64, 1024  # bytes of a cache line; how far on memory is asked for what comes, be it of the next row


class _Walk(NamedTuple):
    """Where a loop is: pointers to the next blocks, scales and activations, each in a place of its own; the sums."""

    blocks_R: list[Any]
    scales_R: list[Any]
    x_T: list[Any]
    sums_RT: list[Any]


def dot_of(unpacker: Unpacker, rows: int, tokens: int, features: frozenset[str]) -> Any:
    """An intrinsic (blocks_R, scales_R, x_T, columns) -> R * T sums, rows outermost.

    Addresses are int64, tuples of them; x are records of activations as the unpacker takes them.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def dot(_context: Any, blocks_R: Any, scales_R: Any, x_T: Any, columns: Any) -> Any:
        returned = types.UniTuple(types.float32, rows * tokens)
        places, records = types.UniTuple(types.int64, rows), types.UniTuple(types.int64, tokens)

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums = _loops(builder, unpacker, features, rows, tokens, arguments)
            return context.make_tuple(builder, signature.return_type, sums)

        return returned(places, places, records, types.int64), build

    return dot


def _loops(
    builder: Any, unpacker: Unpacker, features: frozenset[str], rows: int, tokens: int, arguments: Any
) -> list[Any]:
    blocks_R, scales_R = (cgutils.unpack_tuple(builder, each, rows) for each in arguments[:2])
    zeros = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
    walk = _Walk(
        [_place(builder, address) for address in blocks_R],
        [_place(builder, address) for address in scales_R],
        [_place(builder, address) for address in cgutils.unpack_tuple(builder, arguments[2], tokens)],
        [cgutils.alloca_once_value(builder, zeros) for _ in range(rows * tokens)],
    )
    left = arguments[3]
    for step in unpacker.steps:
        width = ir.Constant(I64, step.width)
        with cgutils.for_range(builder, builder.sdiv(left, width)):
            _one_step(Lanes(builder, features), unpacker, step, walk)
        left = builder.srem(left, width)
    return [Lanes(builder, features).sum_of(builder.load(place)) for place in walk.sums_RT]


def _place(builder: Any, address: Any) -> Any:
    return cgutils.alloca_once_value(builder, builder.inttoptr(address, I8.as_pointer()))


def _one_step(code: Lanes, unpacker: Unpacker, step: Step, walk: _Walk) -> None:
    builder, tokens = code.builder, len(walk.x_T)
    x_T = [builder.load(place) for place in walk.x_T]
    add = _Rounded(code, unpacker, step, x_T) if unpacker.rounded else _Exact(code, x_T)
    for r, (blocks, scales) in enumerate(zip(walk.blocks_R, walk.scales_R, strict=True)):
        at, scales_at = builder.load(blocks), builder.load(scales)
        sums_T = walk.sums_RT[r * tokens : (r + 1) * tokens]
        for line in range(0, step.block_bytes, LINE):
            code.prefetch(at, AHEAD + line)
        begin = 0
        for g, group in enumerate(step.write(code, at, scales_at)):
            if group.totals is not None:
                _add_totals(code, group.totals, x_T, step.totals_at(unpacker.rounded), sums_T)
                continue
            add.products(group, g, begin, sums_T)
            begin += len(group.vectors)
        builder.store(code.at(at, step.block_bytes), blocks)
        builder.store(code.at(scales_at, step.scale_bytes), scales)
    for place, x in zip(walk.x_T, x_T, strict=True):
        builder.store(code.at(x, step.record_bytes(unpacker.rounded)), place)


class _Exact:
    """Activations in fp32, weights made fp32; a scale is applied once a group."""

    def __init__(self, code: Lanes, x_T: list[Any]) -> None:
        self._code, self._x_T = code, x_T

    def products(self, group: Group, _number: int, begin: int, sums_T: list[Any]) -> None:
        """Add a group's products to the sums of each token; its first vector is number `begin` of the step."""
        code, alone = self._code, group.scale is None
        part_T = [code.builder.load(place) if alone else None for place in sums_T]
        for i, weights in enumerate(group.vectors):
            for t, x in enumerate(self._x_T):
                activations, part = code.load(x, VECTOR_BYTES * (begin + i), FLOAT, LANES), part_T[t]
                made = code.builder.fmul(weights, activations) if part is None else code.fma(weights, activations, part)
                part_T[t] = made
        for place, part in zip(sums_T, part_T, strict=True):
            code.builder.store(part if alone else code.fma(part, group.scale, code.builder.load(place)), place)


class _Rounded:
    """Activations and weights as bytes, whose products are added as whole numbers; see `records`."""

    def __init__(self, code: Lanes, unpacker: Unpacker, step: Step, x_T: list[Any]) -> None:
        self._code, self._unpacker, self._x_T = code, unpacker, x_T
        self._aside = VECTOR_BYTES * step.vectors(rounded=True)
        self._less: dict[tuple[int, int], Any] = {}

    def products(self, group: Group, number: int, begin: int, sums_T: list[Any]) -> None:
        """The same as of `_Exact`."""
        code, small = self._code, self._unpacker.most < 128
        for t, (place, x) in enumerate(zip(sums_T, self._x_T, strict=True)):
            part = self._zeros()
            for i, weights in enumerate(group.vectors):
                part = code.four_each(part, weights, self._x(t, begin + i), small=small)
            if self._unpacker.less:
                part = code.builder.sub(part, self._too_much(t, begin, len(group.vectors)))
            scaled = code.builder.fmul(code.whole_as_float(part), group.scale)
            factor = code.load(x, self._aside + VECTOR_BYTES * number, FLOAT, LANES)
            code.builder.store(code.fma(scaled, factor, code.builder.load(place)), place)

    def _zeros(self) -> Any:
        return ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)

    def _x(self, t: int, vector: int) -> Any:
        return self._code.load(self._x_T[t], VECTOR_BYTES * vector, I32, LANES)

    def _too_much(self, t: int, begin: int, count: int) -> Any:
        """`less` times the activations that meet a group's weights, the same for all rows."""
        if (t, begin) not in self._less:
            less, total = self._unpacker.less, self._zeros()
            factors = ir.Constant(total.type, [less * 0x01010101] * LANES)
            for i in range(count):
                total = self._code.four_each(total, factors, self._x(t, begin + i), small=less < 128)
            self._less[t, begin] = total
        return self._less[t, begin]


def _add_totals(code: Lanes, factors: Any, x_T: list[Any], at: int, sums_T: list[Any]) -> None:
    for place, x in zip(sums_T, x_T, strict=True):
        code.builder.store(code.fma(factors, code.load(x, at, FLOAT, LANES), code.builder.load(place)), place)


def wide_of(unpacker: Unpacker, features: frozenset[str], half: bool = False) -> Any:
    """An intrinsic (blocks, scales, out, columns): one row's weights as fp32, or bf16, in the unpacker's order."""

    @intrinsic  # type: ignore[untyped-decorator]
    def wide(_context: Any, blocks: Any, scales: Any, out: Any, columns: Any) -> Any:
        def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            places = [_place(builder, address) for address in arguments[:3]]
            left = arguments[3]
            for step in unpacker.steps:
                width = ir.Constant(I64, step.width)
                with cgutils.for_range(builder, builder.sdiv(left, width)):
                    _widen(Lanes(builder, features), step, places, half)
                left = builder.srem(left, width)
            return cgutils.get_null_value(ir.IntType(64))

        return types.int64(*[types.int64] * 4), build

    return wide


def _widen(code: Lanes, step: Step, places: list[Any], half: bool) -> None:
    builder = code.builder
    blocks, scales, out = (builder.load(place) for place in places)
    written = 0
    for group in step.write(code, blocks, scales):
        for vector in group.vectors:
            scaled = vector if group.scale is None else builder.fmul(vector, group.scale)
            if group.shift is not None:
                scaled = builder.fadd(scaled, group.shift)
            made = code.narrowed(scaled) if half else scaled
            target = builder.bitcast(code.at(out, written), made.type.as_pointer())
            builder.store(made, target, align=1)
            written += LANES * (2 if half else 4)
    sizes = step.block_bytes, step.scale_bytes, written
    for place, at, size in zip(places, (blocks, scales, out), sizes, strict=True):
        builder.store(code.at(at, size), place)
