"""Amounts of memory as people write them: 8GiB, 512MB, 25%."""

from __future__ import annotations

import re

from ..errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_MOST_DIGITS = 30
MOST_BYTES = 2**63
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%|[kmgt]?i?b?)\s*", re.IGNORECASE)


def parse_bytes(text: str | int, whole_bytes: int | None = None) -> int:
    """Bytes of `text`: a number, a size (8GiB, 512MB), or a share (25%) of `whole_bytes` if that is given.

    Raises InputError naming the value and the forms allowed.
    """
    if isinstance(text, int):
        if abs(text) >= MOST_BYTES:
            raise InputError(f"{str(text)[:40]} bytes are more than any machine has; write a size like 8GiB")
        return text
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    unit = match[2].lower().removesuffix("b") if match else ""
    if match is None or (unit == "%" and whole_bytes is None) or unit == "i":
        share = " or a share like 25%" if whole_bytes is not None else ""
        raise InputError(f"{text!r} is not an amount of memory; write a size like 8GiB or 512MB{share}")
    if len(match[1]) > _MOST_DIGITS:
        raise InputError(f"{text!r:.40} has more than {_MOST_DIGITS} digits; write a size like 8GiB")
    if unit == "%" and float(match[1]) > 100:
        raise InputError(f"{text!r} is more than the whole; write a share up to 100%, or a size like 8GiB")
    if unit == "%":
        return int(float(match[1]) / 100 * (whole_bytes or 0))
    return int(float(match[1]) * _UNITS[unit])


def show_bytes(num_bytes: float) -> str:
    """A size for people, binary units: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
