"""What stands in a run log's line: seconds, counts and texts of a kind and a size that a run can have.

All raise TypeError or ValueError, with what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MOST_S, MOST = 1e9, 1 << 40  # of seconds, which "infinite" is written as, and of anything that is counted


def seconds_of(value: Any) -> float:
    """Seconds; negative where something came before its time."""
    read = float(value)
    if not -MOST_S <= read <= MOST_S:
        raise ValueError(f"{read:g} seconds; a run has at most {MOST_S:g}")
    return read


def count_of(value: Any) -> int:
    """A count, or the number of a step, a layer, an expert or a slot; -1 for none."""
    read = int(value)
    if not -1 <= read <= MOST:
        raise ValueError(f"{read!s:.20} of something; a run has at most {MOST:,} of anything")
    return read


def counts_of(values: Iterable[Any]) -> tuple[int, ...]:
    """A list of them."""
    return tuple([count_of(value) for value in values])


def text_of(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text should be")
    return value
