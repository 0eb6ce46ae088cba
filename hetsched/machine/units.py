"""Figures of profile files: their units, allowed ranges, and provenance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .profile import Source
from .yaml_lines import Node

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

# Base unit -> the units a file may use and their factors.
UNITS: dict[str, dict[str, float]] = {
    "B": {f"{prefix}B": factor for prefix, factor in {**_DECIMAL, **_BINARY}.items()},
    "B/s": {f"{prefix}B/s": factor for prefix, factor in {**_DECIMAL, **_BINARY}.items()},
    "FLOP/s": {f"{prefix}FLOP/s": factor for prefix, factor in _DECIMAL.items()},
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
    "1": {"1": 1.0},
}


@dataclass(frozen=True)
class Range:
    """Base unit of a figure and the values that are possible for it, ends included."""

    unit: str
    low: float
    high: float


MEMORY = Range("B", 2.0**26, 2.0**44)
RATE = Range("B/s", 1e8, 1e14)
FLOPS = Range("FLOP/s", 1e8, 1e17)
DELAY = Range("s", 0.0, 0.1)
DELAYS = Range("s", 0.0, 1.0)
FFN = Range("s", 1e-8, 1e4)
SLOWDOWN = Range("1", 1.0, 20.0)
CHUNK = Range("B", 4096.0, 2.0**30)
SHARE = Range("1", 0.0, 10.0)


class Figures:
    """Reads figures `{value, unit, source, note}`; collects provenance and reasons by dotted name."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.provenance: dict[str, Source] = {}
        self.reasons: dict[str, str] = {}

    def read(self, parent: Node, name: str, allowed: Range, default: float | None = None) -> float:
        """The figure in base units; required unless there is a default. Notes every problem, then uses `low`."""
        node = parent.get(name, required=default is None)
        fallback = allowed.low if default is None else default
        if node is None:
            return fallback
        value, factor = _number(node), self._unit(node, allowed)
        self._origin(node)
        node.only()
        if value is None or factor is None:
            return fallback
        if not allowed.low <= value * factor <= allowed.high:
            ends = f"{human(allowed.low, allowed.unit)} to {human(allowed.high, allowed.unit)}"
            node.note(f"is {value:g} {node.text('unit')}; allowed: {ends}")
            return fallback
        return value * factor

    def rename(self, old: str, new: str) -> None:
        """What was read under one dotted name is a figure of another."""
        if old in self.provenance:
            self.provenance[new] = self.provenance.pop(old)
        if old in self.reasons:
            self.reasons[new] = self.reasons.pop(old)

    def _unit(self, node: Node, allowed: Range) -> float | None:
        unit = node.text("unit", required=True)
        factor = UNITS[allowed.unit].get(unit)
        if factor is None and unit:
            node.note(f"has unit {unit!r}; allowed: {', '.join(UNITS[allowed.unit])}")
        return factor

    def _origin(self, node: Node) -> None:
        source = read_source(node, self.source)
        if source is not self.source:
            self.provenance[node.key] = source
        reason = node.text("note")
        if reason:
            self.reasons[node.key] = reason


def read_source(node: Node, default: Source | None = None) -> Source:
    """The `source` of a mapping; required when there is no default."""
    text = node.text("source", required=default is None)
    try:
        return Source(text) if text else default or Source.DATASHEET
    except ValueError:
        node.note(f"source is {text!r}; allowed: {', '.join(source.value for source in Source)}")
        return default or Source.DATASHEET


def number(value: Any) -> float | None:
    """A finite float, also from the '1e9' that YAML 1.1 takes for text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):  # the latter: a whole number beyond every float
        return None
    return result if math.isfinite(result) else None


def _number(node: Node) -> float | None:
    child = node.get("value", required=True)
    if child is None:
        return None
    value = number(child.value)
    if value is None:
        child.note(f"must be a number, is {child.shown}")
    return value


def human(value: float, unit: str) -> str:
    """The figure as people read it: '24 GiB', '25.2 GB/s', '15 µs', '1.24 x'."""
    if unit == "1":
        return f"{value:.2f} x"
    if unit == "s":
        scale, name = next(((f, n) for f, n in ((1.0, "s"), (1e-3, "ms")) if value >= f), (1e-6, "µs"))
        return f"{value / scale:.3g} {name}"
    ladder = {**_BINARY, "": 1.0} if unit == "B" else _DECIMAL
    prefix, factor = max(((p, f) for p, f in ladder.items() if f <= max(value, 1.0)), key=lambda pair: pair[1])
    return f"{value / factor:.3g} {prefix}{unit}"
