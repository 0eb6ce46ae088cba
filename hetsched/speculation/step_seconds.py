"""Seconds of a step of n tokens: the cost model's, corrected by what steps of about that many tokens took."""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol

import numpy as np

from ..cost.model import CostModel
from .union import ExpertUnion

KEEP = 0.97  # of the hit rate, each step
BOUND = math.log(16.0)  # of a length's own correction
JUMP = math.log(4.0)  # of one measurement from what was expected: beyond, it is a hiccup and counts as so much
FOLLOW = 0.03  # of what a measurement was off by is believed of all lengths
MOST_WEIGHT = 16.0  # measurements of one length that are remembered
SURPRISE = math.log(1.3)  # a measurement this far off makes what was remembered half as much worth
NEAR_WEIGHT = 2.0  # measurements from which a length believes itself alone
FIRST_HIT_RATE = 0.5
LOOK_EVERY = 16  # steps


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
        self._said: dict[int, float] = {}
        self._shown, self._version = 0, cost.version

    def show(self, tokens: int, active: float, hits: float) -> None:
        """Learn a step's union and hit rate."""
        self._union.observe(tokens, active)
        if active > 0:
            self._hit_rate = KEEP * self._hit_rate + (1 - KEEP) * hits / active
        self._shown += 1

    def predicted_s(self, tokens: int) -> float:
        """Seconds of a step of so many tokens; what was learned since is looked at every few steps."""
        if self._shown >= LOOK_EVERY or self._version != self._cost.version:
            self._said.clear()
            self._shown, self._version = 0, self._cost.version
        if tokens not in self._said:
            self._said[tokens] = self._predicted_s(tokens)
        return self._said[tokens]

    def _predicted_s(self, tokens: int) -> float:
        cost, active = self._cost, self._union.active(tokens)
        each = tokens * cost.geometry.top_k / active
        cpu_s, start_s = float(cost.cpu_s(each)), cost.cpu_start_s(tokens)
        experts_s = start_s + active * cpu_s
        if cost.has_gpu:
            gpu_s, missing = float(cost.gpu_s(each)), active * (1 - self._hit_rate)
            fetched_F = np.minimum(np.arange(math.ceil(missing) + 1), missing)
            on_gpu_F = cost.gpu_call_s() + (active - missing + fetched_F) * gpu_s
            link_F = fetched_F * cost.copy_s() + gpu_s * (fetched_F > 0)
            on_cpu_F = (start_s + (missing - fetched_F) * cpu_s) * (fetched_F < missing)
            experts_s = float(np.maximum(np.maximum(on_gpu_F, link_F), on_cpu_F).min())
        return cost.geometry.num_layers * (cost.dense_s(tokens) + experts_s)


class EvenStep:
    """Where nothing is known: each further token costs a quarter of the first, until measurements say otherwise."""

    def predicted_s(self, tokens: int) -> float:
        """Seconds, if the first token took one."""
        return 0.75 + 0.25 * tokens

    def show(self, tokens: int, active: float, hits: float) -> None:
        """It learns nothing."""


class StepSeconds:
    """Expected seconds of a step: as predicted, times corrections learned in logarithms of measured over predicted.

    One correction is all lengths' and follows the machine; beside it every length has its own, which
    lengths near it follow a little. A length that was seldom measured believes its neighbours' too.
    """

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self._all: float | None = None
        self._own: dict[int, float] = {}
        self._weight: dict[int, float] = {}

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long; what is not a positive number says nothing."""
        if not (seconds > 0 and math.isfinite(seconds)):
            return
        off = math.log(seconds / self.expected.predicted_s(tokens))
        if self._all is None:
            self._all = off
        own, weight = self._own_by(tokens), self._weight.get(tokens, 0.0)
        news = min(max(off - self._all - own, -JUMP), JUMP)
        if abs(news) > SURPRISE:
            weight /= 2
        for known in self._own:
            if known != tokens:
                self._own[known] = _bounded(self._own[known] + news * _near(known, tokens) / MOST_WEIGHT)
        self._own[tokens] = _bounded(own + news / (weight + 1))
        self._weight[tokens] = min(weight + 1, MOST_WEIGHT)
        self._all += FOLLOW * news

    def seconds(self, tokens: int) -> float:
        """Expected seconds of a step of so many tokens."""
        return self.expected.predicted_s(tokens) * math.exp((self._all or 0.0) + self._own_by(tokens))

    def _own_by(self, tokens: int) -> float:
        """Logarithm of a length's own correction; by its neighbours' where it has few measurements."""
        weight = self._weight.get(tokens, 0.0)
        if weight >= NEAR_WEIGHT:
            return self._own[tokens]
        near = [(own, _near(n, tokens) * self._weight[n]) for n, own in self._own.items() if n != tokens]
        total = sum(near_weight for _, near_weight in near)
        beside = sum(own * near_weight for own, near_weight in near) / total if total else 0.0
        share = weight / NEAR_WEIGHT
        return share * self._own.get(tokens, 0.0) + (1 - share) * beside


@cache
def _near(one: int, other: int) -> float:
    """How much one length says of another: 1 of itself, a quarter of its half."""
    return float(4.0 ** -abs(math.log2(one / other)))


def _bounded(correction: float) -> float:
    return min(max(correction, -BOUND), BOUND)
