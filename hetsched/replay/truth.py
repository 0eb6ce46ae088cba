"""Truth: what work really takes in a replay, step by step, whatever the scheduler believes of its machine."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from ..board import MACHINE
from ..board.seconds import Seconds
from ..cost.model import CostModel
from ..errors import InputError
from ..machine.drift import TrueMachine
from ..machine.profile import HardwareProfile
from ..types import FloatArray

TrueHardware: TypeAlias = HardwareProfile | TrueMachine


class Span(NamedTuple):
    """From step `begin` on until the next span: its cost model, never recalibrated."""

    begin: int
    cost: CostModel

    def tables(self, num_tokens: int) -> tuple[FloatArray, FloatArray]:
        """What kernels read of it: seconds by tokens float64 [4, T > num_tokens], and the machine's section."""
        machine = np.zeros(MACHINE)
        return Seconds(self.cost, machine).table(num_tokens), machine


def true_spans(believed: CostModel, hardware: TrueHardware | None) -> list[Span]:
    """The spans of a replay; one, of what is believed at first, where nothing else is said to be true.

    Raises InputError where one of the two machines has a GPU and the other has none.
    """
    if hardware is None:
        return [Span(0, CostModel(believed.profile, believed.geometry))]
    true = hardware if isinstance(hardware, TrueMachine) else TrueMachine(hardware)
    if (true.profile.gpu is None) is believed.has_gpu:
        having = true.profile.name if believed.profile.gpu is None else believed.profile.name
        raise InputError(
            f"{believed.profile.name} is believed and {true.profile.name} is true, and only {having} has a GPU; "
            "a scheduler knows whether there is one"
        )
    return [Span(step, CostModel(profile, believed.geometry)) for step, profile in true.spans()]
