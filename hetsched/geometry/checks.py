"""Limits that no model comes near, so that nothing asks for memory by a figure that is a slip or an attack."""

from __future__ import annotations

from typing import Any

from ..errors import InputError

MAX_LAYERS, MAX_EXPERTS, MAX_WIDTH, MAX_PARAMS = 1_000, 1 << 15, 1 << 24, 1 << 50
MAX_ALL_EXPERTS = 1 << 20  # of all layers together


def require_whole(value: Any, low: int, most: int, what: str) -> int:
    """The value; raises InputError where it is no whole number from `low` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= most:
        raise InputError(f"{what} is {brief(value)}; it must be a whole number from {low} to {most}")
    return value


def brief(value: Any) -> str:
    """A wrong value, short enough for a message; str() of a whole number of thousands of digits would raise."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "beyond all reason"
    return f"{value!r:.40}"
