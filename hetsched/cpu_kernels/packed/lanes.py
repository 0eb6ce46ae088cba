"""Sixteen lanes at a time in LLVM's own words: what unpackers write their code with.

Vectors of 16 are one register with AVX-512, two with AVX2, four with NEON; LLVM splits them. Only the look-up in a
table of 16 numbers differs by machine, behind `table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils

LANES = 16
I8, I16, I32, I64, HALF, FLOAT = (*map(ir.IntType, (8, 16, 32, 64)), ir.HalfType(), ir.FloatType())
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FEATURES = ("avx512f", "avx512bw", "avx512vnni", "avx2", "f16c", "neon")
SHUFFLES = (  # of bytes by a table of 16: what has it, its name, bytes at a time
    ("avx512bw", "llvm.x86.avx512.pshuf.b.512", 64),
    ("avx2", "llvm.x86.avx2.pshuf.b", 32),
    ("neon", "llvm.aarch64.neon.tbl1.v16i8", 16),
)


def host_features() -> frozenset[str]:
    """What this machine's CPU has of what is asked for here."""
    found = binding.get_host_cpu_features()
    return frozenset(name for name in FEATURES if found.get(name))


def multiplies_bf16() -> bool:
    """Whether this machine's CPU has products of bf16 numbers, which torch uses."""
    found = binding.get_host_cpu_features()
    return any(found.get(name) for name in ("amx-bf16", "avx512bf16", "bf16"))


class Lanes:
    """Code at a builder's place, for a CPU with these features."""

    def __init__(self, builder: Any, features: frozenset[str]) -> None:
        self.builder, self.features = builder, features

    def at(self, base: Any, offset: int) -> Any:
        """A pointer to bytes, so many on."""
        return self.builder.gep(base, [ir.Constant(I64, offset)]) if offset else base

    def load(self, base: Any, offset: int, kind: Any, count: int = 0) -> Any:
        """What lies there, at any byte: one, or a vector of `count`."""
        wanted = ir.VectorType(kind, count) if count else kind
        place = self.builder.bitcast(self.at(base, offset), wanted.as_pointer())
        return self.builder.load(place, align=1)

    def whole(self, value: int, like: Any) -> Any:
        """A whole number in every lane, as wide as those of `like`."""
        kind = like.type
        lanes = kind.count if isinstance(kind, ir.VectorType) else 0
        return ir.Constant(kind, [value] * lanes if lanes else value)

    def number(self, value: float, lanes: int = LANES) -> Any:
        """A float in every lane."""
        return ir.Constant(ir.VectorType(FLOAT, lanes), [value] * lanes)

    def spread(self, vector: Any, lanes: Sequence[int]) -> Any:
        """Lanes of a vector in another order, or several times."""
        places = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)

    def everywhere(self, number: Any, lanes: int = LANES) -> Any:
        """One number in every lane."""
        one = ir.VectorType(number.type, 1)
        alone = self.builder.insert_element(ir.Constant(one, ir.Undefined), number, ir.Constant(I32, 0))
        return self.spread(alone, [0] * lanes)

    def joined(self, numbers: Sequence[Any]) -> Any:
        """A vector of these whole numbers, eight bytes at most; put together where scalars are, which vectors leave
        idle. The empty piece of assembly keeps LLVM from inserting them into a vector one by one."""
        kind, width = numbers[0].type, numbers[0].type.width
        whole = ir.IntType(width * len(numbers))
        made = self.builder.zext(numbers[0], whole)
        for i, number in enumerate(numbers[1:], 1):
            moved = self.builder.shl(self.builder.zext(number, whole), ir.Constant(whole, width * i))
            made = self.builder.or_(made, moved)
        if whole.width in (32, 64):
            made = self.builder.asm(ir.FunctionType(whole, [whole]), "", "=r,0", [made], False)
        return self.builder.bitcast(made, ir.VectorType(kind, len(numbers)))

    def low_and_high(self, first: Any, second: Any) -> Any:
        """Two vectors as one."""
        count = first.type.count + second.type.count
        places = ir.Constant(ir.VectorType(I32, count), list(range(count)))
        return self.builder.shuffle_vector(first, second, places)

    def shifted(self, words: Any, places: int) -> Any:
        """To the right, zeros from the left."""
        return self.builder.lshr(words, self.whole(places, words)) if places else words

    def masked(self, words: Any, mask: int) -> Any:
        """Those bits alone."""
        return self.builder.and_(words, self.whole(mask, words))

    def at_least(self, words: Any, least: int) -> Any:
        """Unsigned words, smaller ones made so large."""
        return self._call(f"llvm.umax.v{words.type.count}i32", words.type, [words, self.whole(least, words)])

    def signed_bytes(self, numbers: Any) -> Any:
        """Signed bytes as floats."""
        words = self.builder.sext(numbers, ir.VectorType(I32, numbers.type.count))
        return self.builder.sitofp(words, ir.VectorType(FLOAT, numbers.type.count))

    def byte_of_each(self, words: Any, place: int) -> Any:
        """The signed byte at a place of 16 words, as floats."""
        top = self.builder.shl(words, self.whole(24 - 8 * place, words))
        return self.builder.sitofp(self.builder.ashr(top, self.whole(24, words)), ir.VectorType(FLOAT, LANES))

    def widened(self, bits: Any) -> Any:
        """bf16 bits as floats: the upper half of the word."""
        words = self.builder.zext(bits, ir.VectorType(I32, bits.type.count))
        high = self.builder.shl(words, self.whole(16, words))
        return self.builder.bitcast(high, ir.VectorType(FLOAT, bits.type.count))

    def narrowed(self, floats: Any) -> Any:
        """Finite floats as bf16 bits: to nearest, ties to even."""
        words = self.builder.bitcast(floats, ir.VectorType(I32, floats.type.count))
        odd = self.masked(self.shifted(words, 16), 1)
        half = self.builder.add(odd, self.whole(0x7FFF, words))
        rounded = self.shifted(self.builder.add(words, half), 16)
        return self.builder.trunc(rounded, ir.VectorType(I16, floats.type.count))

    def halves(self, bits: Any) -> Any:
        """fp16 bits as floats; where the CPU has no instruction for it, by way of the exponent."""
        count = bits.type.count
        if self.features & {"f16c", "avx512f", "neon"}:
            return self.builder.fpext(
                self.builder.bitcast(bits, ir.VectorType(HALF, count)), ir.VectorType(FLOAT, count)
            )
        words = self.builder.zext(bits, ir.VectorType(I32, count))
        size = self.builder.shl(self.masked(words, 0x7FFF), self.whole(13, words))
        sign = self.builder.shl(self.masked(words, 0x8000), self.whole(16, words))
        floats = self.builder.bitcast(size, ir.VectorType(FLOAT, count))
        grown = self.builder.fmul(floats, self.number(2.0**112, count))
        joined = self.builder.or_(self.builder.bitcast(grown, words.type), sign)
        return self.builder.bitcast(joined, ir.VectorType(FLOAT, count))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once where the CPU can."""
        return self._call(f"llvm.fmuladd.v{a.type.count}f32", a.type, [a, b, c])

    def fourths(self, words: Any, shift: int) -> Any:
        """Numbers of four bits at a place of 16 words, less 8, as floats."""
        moved = self.shifted(words, shift)
        if "avx512f" in self.features:
            return self._table16([float(i - 8) for i in range(16)], moved)
        kind = ir.VectorType(FLOAT, words.type.count)
        return self.builder.fsub(self.builder.sitofp(self.masked(moved, 15), kind), self.number(8.0))

    def unsigned_fourths(self, words: Any, shift: int) -> Any:
        """Numbers of four bits at a place of 16 words, 0 to 15, as floats."""
        moved = self.shifted(words, shift)
        if "avx512f" in self.features:
            return self._table16([float(i) for i in range(16)], moved)
        return self.builder.sitofp(self.masked(moved, 15), ir.VectorType(FLOAT, words.type.count))

    def e2m1(self, words: Any, shift: int) -> Any:
        """4-bit floats at a place of 16 words."""
        moved = self.shifted(words, shift)
        if "avx512f" in self.features:
            return self._table16([*E2M1, *(-value for value in E2M1)], moved)
        sign = self.builder.shl(self.masked(moved, 8), self.whole(28, words))
        size = self._e2m1_sizes(moved)
        signed = self.builder.or_(self.builder.bitcast(size, words.type), sign)
        return self.builder.bitcast(signed, size.type)

    def _e2m1_sizes(self, words: Any) -> Any:
        if "avx2" in self.features:
            kind, places = ir.VectorType(FLOAT, 8), ir.VectorType(I32, 8)
            table = ir.Constant(kind, list(E2M1))
            parts = [self.spread(words, range(first, first + 8)) for first in (0, 8)]
            found = [self._call("llvm.x86.avx2.permps", kind, [table, part], [kind, places]) for part in parts]
            return self.low_and_high(*found)
        size = self.masked(words, 7)
        bits = self.builder.add(self.builder.shl(size, self.whole(22, words)), self.whole(126 << 23, words))
        small = self.builder.icmp_unsigned("<", size, self.whole(2, words))
        none = self.builder.icmp_unsigned("==", size, self.whole(0, words))
        half = self.builder.select(none, self.whole(0, words), self.whole(126 << 23, words))
        return self.builder.bitcast(self.builder.select(small, half, bits), ir.VectorType(FLOAT, LANES))

    def whole_as_float(self, words: Any) -> Any:
        """Signed words as floats."""
        return self.builder.sitofp(words, ir.VectorType(FLOAT, words.type.count))

    def four_each(self, sums: Any, weights: Any, x: Any, small: bool) -> Any:
        """`sums` and, in each of 16 words, four unsigned bytes of `weights` times four signed ones of `x`.

        `small`: the weights are less than 128. Whole numbers, so the same on every CPU.
        """
        if "avx512vnni" in self.features:
            return self._call("llvm.x86.avx512.vpdpbusd.512", sums.type, [sums, weights, x])
        if "avx2" in self.features:
            halves = [[self.spread(words, range(first, first + 8)) for words in (weights, x)] for first in (0, 8)]
            found = [self._pairs_of_bytes(*half) if small else self._pairs_of_words(*half) for half in halves]
            return self.builder.add(sums, self.low_and_high(*found))
        for place in (0, 8, 16, 24):
            top = self.builder.shl(x, self.whole(24 - place, x))
            factor = self.builder.ashr(top, self.whole(24, x))
            weight = self.masked(self.shifted(weights, place), 255)
            sums = self.builder.add(sums, self.builder.mul(weight, factor))
        return sums

    def _pairs_of_bytes(self, weights: Any, x: Any) -> Any:
        """AVX2's products of bytes, whose sums of two must not pass 32767."""
        bytes_, words = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
        given = [self.builder.bitcast(each, bytes_) for each in (weights, x)]
        pairs = self._call("llvm.x86.avx2.pmadd.ub.sw", words, given)
        ones = ir.Constant(words, [1] * 16)
        return self._call("llvm.x86.avx2.pmadd.wd", weights.type, [pairs, ones])

    def _pairs_of_words(self, weights: Any, x: Any) -> Any:
        """The same of all bytes, the odd ones apart from the even ones."""
        words = ir.VectorType(I16, 16)
        w, v = (self.builder.bitcast(each, words) for each in (weights, x))
        eight = self.whole(8, w)
        even = self.masked(w, 255), self.builder.ashr(self.builder.shl(v, eight), eight)
        odd = self.builder.lshr(w, eight), self.builder.ashr(v, eight)
        return self.builder.add(*(self._call("llvm.x86.avx2.pmadd.wd", weights.type, pair) for pair in (even, odd)))

    def bytes_named(self, numbers: Sequence[int], codes: Any) -> Any:
        """In 16 words of four bytes, each below 16, the small numbers that they name; one byte shuffle each."""
        wide, low = ir.VectorType(I8, 64), self.builder.bitcast(codes, ir.VectorType(I8, 64))
        for feature, name, count in SHUFFLES:
            if feature in self.features:
                kind = ir.VectorType(I8, count)
                table = ir.Constant(kind, list(numbers) * (count // 16))
                parts = [self.spread(low, range(first, first + count)) for first in range(0, 64, count)]
                found = [self._call(name, kind, [table, part]) for part in parts]
                return self.builder.bitcast(self.in_one(found), codes.type)
        found = ir.Constant(wide, [numbers[0]] * 64)
        for code, number in enumerate(numbers[1:], 1):
            named = self.builder.icmp_unsigned("==", low, self.whole(code, low))
            found = self.builder.select(named, self.whole(number, low), found)
        return self.builder.bitcast(found, codes.type)

    def powers(self, exponents: Any, lanes: Sequence[int]) -> Any:
        """2^(byte - 127) of these bytes in 16 lanes; 0 gives the subnormal 2^-127.

        Each byte goes to the top of its word and down by a bit: all four of a word at once, or one by a shuffle.
        """
        count, words = exponents.type.count, ir.VectorType(I32, LANES)
        if count == 4:
            everywhere = self.everywhere(self.builder.bitcast(exponents, I32))
            top = self.builder.shl(everywhere, ir.Constant(words, [24 - 8 * lane for lane in lanes]))
        else:
            zeros = ir.Constant(exponents.type, [0] * count)
            places = [place for lane in lanes for place in (count, count, count, lane)]
            shuffled = self.builder.shuffle_vector(exponents, zeros, ir.Constant(ir.VectorType(I32, 64), places))
            top = self.builder.bitcast(shuffled, words)
        found = self.masked(self.shifted(top, 1), 0xFF << 23)
        return self.builder.bitcast(self.at_least(found, 1 << 22), ir.VectorType(FLOAT, LANES))

    def in_one(self, vectors: Sequence[Any]) -> Any:
        """Vectors of one size, a power of two of them, as one."""
        while len(vectors) > 1:
            vectors = [self.low_and_high(*vectors[i : i + 2]) for i in range(0, len(vectors), 2)]
        return vectors[0]

    def prefetch(self, base: Any, offset: int) -> Any:
        """Ask for the bytes so far on; they need not exist."""
        kinds = [I8.as_pointer(), I32, I32, I32]
        read, near, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        return self._call("llvm.prefetch.p0", ir.VoidType(), [self.at(base, offset), read, near, data], kinds)

    def sum_of(self, vector: Any) -> Any:
        """The lanes' sum, halves onto halves."""
        while vector.type.count > 1:
            half = vector.type.count // 2
            low, high = (self.spread(vector, range(first, first + half)) for first in (0, half))
            vector = self.builder.fadd(low, high)
        return self.builder.extract_element(vector, ir.Constant(I32, 0))

    def _table16(self, numbers: Sequence[float], words: Any) -> Any:
        """The number that the lowest four bits of each word name."""
        kind = ir.VectorType(FLOAT, LANES)
        given = [ir.Constant(kind, list(numbers)), words]
        return self._call("llvm.x86.avx512.permvar.sf.512", kind, given, [kind, words.type])

    def _call(self, name: str, returned: Any, arguments: Sequence[Any], kinds: Sequence[Any] = ()) -> Any:
        kind = ir.FunctionType(returned, list(kinds) or [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, list(arguments))
