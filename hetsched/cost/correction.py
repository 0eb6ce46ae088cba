"""Corrections: how far predictions have been off of late, per class of operation; bounded, and forgotten in time."""

from __future__ import annotations

import math

from ..errors import InputError

OPS = ("gpu", "cpu", "copy", "dense")
BOUND = 4.0  # a factor beyond 4 is no drift but a wrong profile: the guard and the user should see it
RATE = 0.1  # share of a new error that is believed: about ten observations to follow a change
DECAY = 0.999  # per observation of another class: an unseen class returns to its profile over some thousand


class Corrections:
    """One factor on the predicted seconds of each class of operation, 1 at first.

    An exponential average of log(measured / predicted), where predicted already holds the factor: it converges to the
    factor that makes the two equal, within 1 / BOUND to BOUND.
    """

    def __init__(self) -> None:
        self._log = dict.fromkeys(OPS, 0.0)

    def factor(self, op: str) -> float:
        """Factor on the predictions of a class."""
        return math.exp(self._log[op])

    def observe(self, op: str, predicted_s: float, measured_s: float) -> None:
        """Take one prediction and its measurement into account; zero or negative seconds say nothing and are ignored.

        Raises InputError for an unknown class.
        """
        if op not in self._log:
            raise InputError(f"op {op!r} is not one of {', '.join(OPS)}")
        if not (predicted_s > 0 and measured_s > 0 and math.isfinite(predicted_s + measured_s)):
            return
        limit = math.log(BOUND)
        error = min(max(math.log(measured_s / predicted_s), -limit), limit)
        for name in self._log:
            self._log[name] *= DECAY if name != op else 1.0
        self._log[op] = min(max(self._log[op] + RATE * error, -limit), limit)
