"""What to measure, and how the time is shared out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from ..geometry import MoEGeometry
from ..machine.profile import ExpertShape

TABLE_TOKENS = (*range(1, 9), 16, 32, 64, 128, 256, 512)  # verify steps live in the first eight
QUICK_S, FULL_S = 9.0, 90.0  # of pure measuring for each processor; start-up, warm-up and noise come on top

Report: TypeAlias = Callable[[float, str], None]  # seconds of the budget now used up, and what is being measured


@dataclass(frozen=True)
class Request:
    """One profile to measure: the model's geometry, the device, and the seconds to spend on each processor.

    `device`: auto, cpu or cuda. `with_dense`: the geometry is a whole model's, so the rest of a layer is measured too.
    """

    geometry: MoEGeometry
    device: str = "auto"
    quick: bool = False
    with_dense: bool = True
    tokens: tuple[int, ...] = TABLE_TOKENS
    report: Report = field(default=lambda _seconds, _text: None)

    @property
    def budget_s(self) -> float:
        """Seconds of measuring for each processor."""
        return QUICK_S if self.quick else FULL_S

    @property
    def shape(self) -> ExpertShape:
        """The routed expert."""
        return ExpertShape.of(self.geometry)
