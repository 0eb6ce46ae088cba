"""Durations as people write them: 0.00002, 20us, 1.5 ms, 2s, 5min."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from ..errors import InputError

_UNITS = {"": "1", "s": "1", "ms": "1e-3", "us": "1e-6", "µs": "1e-6", "ns": "1e-9", "min": "60", "h": "3600"}
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]{1,3})?)\s*([a-zµ]*)\s*", re.IGNORECASE)


def parse_seconds(text: str) -> float:
    """Seconds of `text`, a number (of seconds) or one with its unit. Raises InputError naming the forms allowed."""
    match = _PATTERN.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    number_s = float(Decimal(match[1]) * Decimal(unit)) if match and unit else math.inf  # as exact as what is written
    if not math.isfinite(number_s):
        raise InputError(f"{text!r:.60} is no duration; write seconds, as 0.00002, or a unit, as 20us, 5ms or 2min")
    return number_s
