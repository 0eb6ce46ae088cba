"""A board's watch for people: by class, what was predicted and what was measured.

Shapes: R rows and C columns of a watch (board/__init__.py).
"""

from __future__ import annotations

from typing import Any

from ..cost.model import OPS
from ..types import FloatArray
from . import CORRECTED, FACTOR, LEAST_S, STEPS_SEEN, SUM_ERROR, SUM_MEASURED_S, SUM_PREDICTED_S, TOOK_S

NAMES = (*OPS, "layers", "decision", "host")


def figures(watch_RC: FloatArray) -> dict[str, Any]:
    """What a watch holds, ready for JSON: by class seconds predicted and measured, and how far a step was off.

    `ratio`: measured over predicted; `step_error`: mean over steps of its distance from 1; `factor`: now on the tables.
    The step under way counts in the sums. Classes of which nothing was measured are left out.
    """
    found: dict[str, Any] = {}
    for c, name in enumerate(NAMES):
        column_R = watch_RC[:, c]
        predicted_s = float(column_R[SUM_PREDICTED_S] + column_R[LEAST_S])
        measured_s = float(column_R[SUM_MEASURED_S] + column_R[TOOK_S])
        if predicted_s <= 0:
            continue
        steps = float(column_R[STEPS_SEEN])
        found[name] = {"predicted_s": predicted_s, "measured_s": measured_s, "ratio": measured_s / predicted_s}
        found[name]["step_error"] = float(column_R[SUM_ERROR]) / steps if steps else None
        if c < CORRECTED:
            found[name]["factor"] = float(column_R[FACTOR])
    return found
