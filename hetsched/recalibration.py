"""Recalibration: the cost model follows what is measured, step by step (rules: board/recalibration.py).

Shapes: R rows and C columns of a watch (board/__init__.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from .board import CORRECTED, FACTOR, Arrays
from .board import open_board as board_of
from .board.seconds import Seconds
from .cost.model import OPS, CostModel
from .faults import Fault, Tell
from .types import FloatArray

WRONG_BEYOND = 4.0  # a factor beyond is no drift but a wrong profile, and the user is told where it decides anything


class Recalibration:
    """Predicted and measured seconds of everything a layer is made of, and the cost model brought up to date by them.

    `learning`: whether it is; else both are only counted. `tell`: told once of each class whose profile is far off;
    `warn`: so is the user.
    """

    def __init__(
        self, arrays: Arrays, cost: CostModel, seconds: Seconds, learning: bool, tell: Tell, warn: bool
    ) -> None:
        self.learning = learning
        self._arrays = arrays
        self._watch_RC = board_of(*arrays).watch_RC
        self._cost = cost
        self._seconds = seconds
        self._tell, self._warn = tell, warn
        self._told: set[str] = set()
        self._end_step: Callable[..., bool] | None = None

    @property
    def factor_C(self) -> FloatArray:
        """Factors now on the tables, of OPS in order."""
        return self._watch_RC[FACTOR, :CORRECTED].copy()

    def begin_step(self) -> None:
        """A step is about to be decided: whatever is known of the one before it holds from here on."""
        if self._end_step is None:
            from .board.recalibration import entries  # numba takes long to import

            self._end_step = entries.end_step
        if self._end_step(*self._arrays, self.learning):
            self.follow()

    def follow(self) -> None:
        """Bring the cost model to the factors on the board; its tables follow at their next use."""
        factors = dict(zip(OPS, self.factor_C.tolist(), strict=True))
        if factors != self._cost.corrections:
            self._cost.recalibrate(factors)
        for op, factor in factors.items() if self._cost.has_gpu else ():
            if op not in self._told and not 1 / WRONG_BEYOND <= factor <= WRONG_BEYOND:
                self._told.add(op)
                reason = (
                    f"{op} takes {float(f'{factor:.2g}'):g} times what the profile of {self._cost.profile.name} says"
                )
                self._tell(Fault.PROFILE, reason)
                if self._warn:
                    warnings.warn(f"{reason}; 'hetsched profile' measures it", RuntimeWarning, stacklevel=4)
