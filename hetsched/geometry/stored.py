"""What expert weights are stored as, by name, and how many bytes an expert takes so. No torch.

A name is a format's ("q8_0", "int4-group+group=128") or two with a slash, "q4_k/q6_k": gate and up, then down, which is
what half of the layers of a Q4_K_M file have. `BITS_ALONE` names widths, not layouts: estimates that no engine runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from ..errors import InputError, known_as, nearest
from ..formats import Format, Shape, format_of
from ..plugins import installed, installed_name

BITS_ALONE = {"fp8": 8.0, "int8": 8.0, "int4": 4.5}
GROUP = "hetsched.formats"
ROW_ALIGN = 64  # bytes; where parameters begin in an expert's row (hetsched.packed)


def stored_name(name: str, others: Iterable[str] = ()) -> str:
    """The name as it is installed, whatever its case. Raises InputError for one that is none, and lists those known.

    `others`: names that mean something where this one was given, to which it may be nearer.
    """
    plain = known_as(name, BITS_ALONE)
    if plain in BITS_ALONE:
        return plain
    parts = [installed_name(GROUP, part) for part in name.split("/")]
    if unknown := [part for part in parts if ":" not in part and part.partition("+")[0] not in installed(GROUP)]:
        known = list(dict.fromkeys((*WEIGHT_BITS, *others)))
        near = nearest(unknown[0], known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise InputError(f"dtype {unknown[0]!r:.60} is not one of {', '.join(known)}{hint}")
    if len(parts) > 2:
        raise InputError(f"dtype {name!r:.60} names {len(parts)} formats; write one, or GATE_AND_UP/DOWN")
    _formats(name)
    return "/".join(parts)


def formats_named(name: str) -> tuple[Format, Format] | None:
    """Of gate and up, and of down; None for a width alone. Raises InputError for what names no format."""
    return None if name in BITS_ALONE else _formats(name)


@cache
def _formats(name: str) -> tuple[Format, Format]:
    inner, _, outer = name.partition("/")
    first = format_of(inner)
    return first, format_of(outer) if outer else first


@cache
def stored_bytes(name: str, hidden: int, ffn: int, matrices: int = 3, bias: bool = False) -> int:
    """Bytes of one expert's row: its matrices as their formats lay them out, each from a cache line on, and its biases.

    Biases take 16 bits a number, 32 beside fp32. Raises InputError for a shape that a format cannot store.
    """
    biases = ((matrices - 1) * ffn, hidden) if bias else ()
    named = formats_named(name)
    if named is None:
        bits = (matrices * hidden * ffn) * BITS_ALONE[name] + 16 * sum(biases)
        return math.ceil(bits / 8)
    inner, outer = named
    up: list[Shape] = [((matrices - 1) * ffn, hidden)] if inner.block == (1, 1) else [(ffn, hidden)] * (matrices - 1)
    pieces = [inner.num_bytes(shape) for shape in up] + [outer.num_bytes((hidden, ffn))]
    pieces += [(4 if name == "fp32" else 2) * count for count in biases]
    return sum(-(-size // ROW_ALIGN) * ROW_ALIGN for size in pieces)


class _WeightBits(Mapping[str, float]):
    """Bits of one weight, scales included, by what it is stored as; of a gated expert where that is two formats."""

    def __getitem__(self, name: str) -> float:
        if name in BITS_ALONE:
            return BITS_ALONE[name]
        try:
            inner, outer = _formats(name)
        except InputError:
            raise KeyError(name) from None
        return (2 * inner.weight_bits + outer.weight_bits) / 3

    def __iter__(self) -> Iterator[str]:
        return iter((*installed(GROUP), *BITS_ALONE))

    def __len__(self) -> int:
        return len(installed(GROUP)) + len(BITS_ALONE)


WEIGHT_BITS: Mapping[str, float] = _WeightBits()


def is_installed_format(name: str) -> bool:
    """Whether a file may name this: what is installed, or a width alone. Never "module:Class", which would be run."""
    return ":" not in name and name in WEIGHT_BITS
