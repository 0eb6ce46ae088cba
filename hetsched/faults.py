"""Faults that a run survives, by the names under which statistics count them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias


class Fault(Enum):
    """What went wrong and was survived; the values are the names under which statistics count them."""

    COPY = "copy lost"
    OVERDUE = "copy overdue"
    GPU = "gpu kernel failed"
    CPU = "cpu kernel failed"
    POLICY = "policy failed"
    LEARNING = "learning failed"
    PREFETCH = "prefetch failed"
    SOLVER_RAISED = "solver raised"
    SOLVER_LATE = "solver late"
    PINNING = "pinned memory refused"
    PROFILE = "profile far off"
    MEMORY = "device memory short"


Tell: TypeAlias = Callable[[Fault, str], None]


def story(error: BaseException) -> str:
    """An error in one line: its kind and words, or those of what first caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
