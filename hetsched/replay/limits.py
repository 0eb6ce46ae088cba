"""Limits: what no strategy can beat, for one machine at one share of the experts."""

from __future__ import annotations

from typing import NamedTuple

from ..bound.clairvoyant import Bound, all_resident_bound, clairvoyant_bound
from ..cost.model import CostModel
from ..errors import InputError
from ..machine.profile import HardwareProfile
from .opened import Bench
from .simulator import Progress

WINDOW_STEPS = 16


class Limit(NamedTuple):
    """A task: the clairvoyant bound and the all-resident roof, over the same windows of the scored steps."""

    machine: HardwareProfile
    gpu_fraction: float

    def run(self, bench: Bench, progress: Progress | None = None) -> LimitResult:
        """Both bounds, of what is true; on a machine without a GPU there is nothing to bound."""
        study = bench.study
        true = None if study.true_machine is None else study.true_machine.spans()
        if true and len(true) > 1:
            raise InputError("no bound is known for a machine that changes midway")
        cost = CostModel(true[0][1] if true else self.machine, study.geometry)
        if not cost.has_gpu:
            return LimitResult(self.machine.name, self.gpu_fraction, ())
        slots = study.geometry.slots(study.gpu_bytes(self.gpu_fraction))
        what, count = (bench.scored, bench.steps, cost), study.bound_windows
        clairvoyant = clairvoyant_bound(*what, slots, window_steps=WINDOW_STEPS, max_windows=count)
        roof = all_resident_bound(*what, window_steps=WINDOW_STEPS, max_windows=count)
        return LimitResult(self.machine.name, self.gpu_fraction, (clairvoyant, roof))


class LimitResult(NamedTuple):
    """Bounds of one machine at one fraction: clairvoyant first; () where there is none."""

    hardware: str
    gpu_fraction: float
    bounds: tuple[Bound, ...]
