"""Seconds of a step of n tokens: the cost model's, corrected by what steps of about that many tokens took."""

from __future__ import annotations

import math
from typing import Protocol

from ..cost.model import CostModel
from .union import ExpertUnion

KEEP = 0.97  # of what was measured, each step: a change is followed within some 30
BOUND = math.log(64.0)  # of a correction
JUMP = math.log(4.0)  # of one measurement from what was expected: beyond, it is a hiccup and counts as so much
NEAR_WEIGHT = 2.0  # what neighbouring lengths together count for, in steps
FIRST_HIT_RATE = 0.5


class Expected(Protocol):
    """Whoever predicts the seconds of a step of so many tokens, and may be shown what steps were like."""

    def predicted_s(self, tokens: int) -> float:
        """Seconds of a step."""
        ...

    def show(self, tokens: int, active: float, hits: float) -> None:
        """A step of so many tokens had these experts active and there, a layer on average."""
        ...


class ModelledStep:
    """A step by the cost model: every layer its dense part, then its experts on the lanes.

    The expected union of experts is there at the hit rate of late; of the rest as many are fetched as ends the layer
    soonest, the others run on the CPU (the makespan of MODEL.md's section 2 with fractions of experts).
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._union = ExpertUnion(cost.geometry)
        self._hit_rate = FIRST_HIT_RATE

    def show(self, tokens: int, active: float, hits: float) -> None:
        """Learn a step's union and hit rate."""
        self._union.observe(tokens, active)
        if active > 0:
            self._hit_rate = KEEP * self._hit_rate + (1 - KEEP) * hits / active

    def predicted_s(self, tokens: int) -> float:
        """Seconds of a step of so many tokens."""
        cost, active = self._cost, self._union.active(tokens)
        each = tokens * cost.geometry.top_k / active
        cpu_s, start_s = float(cost.cpu_s(each)), cost.cpu_start_s(tokens)
        experts_s = start_s + active * cpu_s
        if cost.has_gpu:
            there = active * self._hit_rate
            experts_s = min(
                self._layer_s(there, active - there, n, each, start_s) for n in range(math.ceil(active) + 1)
            )
        return cost.geometry.num_layers * (cost.dense_s(tokens) + experts_s)

    def _layer_s(self, there: float, missing: float, fetched: int, each: float, start_s: float) -> float:
        """The makespan with so many experts fetched; each has `each` tokens."""
        copied = min(float(fetched), missing)
        gpu_s, left = float(self._cost.gpu_s(each)), missing - copied
        on_gpu_s = self._cost.gpu_call_s() + (there + copied) * gpu_s
        link_s = copied * self._cost.copy_s() + gpu_s if copied else 0.0
        on_cpu_s = start_s + left * float(self._cost.cpu_s(each)) if left else 0.0
        return max(on_gpu_s, link_s, on_cpu_s)


class FlatStep:
    """Where nothing is known: a second whatever the tokens, so that measurements alone make the difference."""

    def predicted_s(self, tokens: int) -> float:
        """One second."""
        return 1.0

    def show(self, tokens: int, active: float, hits: float) -> None:
        """It learns nothing."""


class StepSeconds:
    """Expected seconds of a step: as predicted, times a correction for about so many tokens.

    The logarithm of measured over predicted is averaged at each length, with forgetting; what lengths near it were off
    by stands in where a length was seldom measured.
    """

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self._off: dict[int, float] = {}
        self._weight: dict[int, float] = {}

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long; what is not a positive number says nothing."""
        if not (seconds > 0 and math.isfinite(seconds)):
            return
        off = min(max(math.log(seconds / self.expected.predicted_s(tokens)), -BOUND), BOUND)
        if self._weight:
            now = self._off_by(tokens)
            off = min(max(off, now - JUMP), now + JUMP)
        for known in self._weight:
            self._weight[known] *= KEEP
        weight = self._weight.get(tokens, 0.0)
        self._off[tokens] = (weight * self._off.get(tokens, 0.0) + off) / (weight + 1)
        self._weight[tokens] = weight + 1

    def seconds(self, tokens: int) -> float:
        """Expected seconds of a step of so many tokens."""
        return self.expected.predicted_s(tokens) * math.exp(self._off_by(tokens))

    def weight(self, tokens: int) -> float:
        """Measurements remembered of steps of exactly so many tokens."""
        return self._weight.get(tokens, 0.0)

    def _off_by(self, tokens: int) -> float:
        """Logarithm of the correction: this length's own and its neighbours', by weight."""
        near = [
            (weight / (1 + abs(math.log2(known / tokens)) * 4) ** 2, self._off[known])
            for known, weight in self._weight.items()
            if known != tokens
        ]
        total = sum(weight for weight, _ in near)
        own = self._weight.get(tokens, 0.0)
        share = NEAR_WEIGHT if total else 0.0
        if not own + share:
            return 0.0
        beside = sum(weight * off for weight, off in near) / total if total else 0.0
        return (own * self._off.get(tokens, 0.0) + share * beside) / (own + share)
