"""Seconds of a step of n tokens: the cost model's, corrected by what steps of about that many tokens took."""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol

import numpy as np

from ..cost.model import CostModel
from ..types import FloatArray
from .union import ExpertUnion, HitRate

BOUND = math.log(16.0)  # of a length's own correction
JUMP = math.log(4.0)  # of one measurement from what was expected: beyond, it is a hiccup and counts as so much
FOLLOW = 0.03  # of what a measurement was off by is believed of all lengths
MOST_WEIGHT = 16.0  # measurements of one length that are remembered
BESIDE = 1 / 32  # of what a measurement was off by is believed of lengths close by
SURPRISE = math.log(1.3)  # a measurement this far off makes what was remembered half as much worth
PRIOR_WEIGHT = 4.0  # measurements that what is believed of a length before its first one counts for
LOOK_EVERY = 16  # steps, once something is known


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

    Of the expected union of experts each is missing by itself with the expected share of misses. For every number of
    missing ones as many are fetched as end the layer soonest, the others run on the CPU (the makespan of MODEL.md's
    section 2 with equal experts), and that is averaged: a layer of the average number of misses ends sooner
    than layers do on average, and much more so in short steps.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._union, self._hits = ExpertUnion(cost.geometry), HitRate()
        self._said: dict[int, float] = {}
        self._shown, self._look, self._version = 0, 1, cost.version

    def show(self, tokens: int, active: float, hits: float) -> None:
        """Learn a step's union and hit rate."""
        self._union.observe(tokens, active)
        if active > 0:
            self._hits.observe(1.0 if tokens == 1 else self._growth(active), hits / active)
        self._shown += 1

    def predicted_s(self, tokens: int) -> float:
        """Seconds of a step of so many tokens; what was learned since is looked at every few steps."""
        if self._shown >= self._look or self._version != self._cost.version:
            self._said.clear()
            self._look = min(2 * self._look, LOOK_EVERY)
            self._shown, self._version = 0, self._cost.version
        if tokens not in self._said:
            self._said[tokens] = self._predicted_s(tokens)
        return self._said[tokens]

    def _growth(self, active: float) -> float:
        return active / self._cost.geometry.top_k

    def _predicted_s(self, tokens: int) -> float:
        cost, active = self._cost, self._union.active(tokens)
        whole, part = int(active), active - int(active)
        miss = 1 - self._hits.expected(self._growth(active))
        experts_s = (1 - part) * self._experts_s(tokens, whole, miss)
        if part:
            experts_s += part * self._experts_s(tokens, whole + 1, miss)
        return cost.geometry.num_layers * (cost.dense_s(tokens) + experts_s)

    def _experts_s(self, tokens: int, active: int, miss: float) -> float:
        """Expected seconds of a layer's experts; shapes M missing, F fetched of them."""
        cost, each = self._cost, tokens * self._cost.geometry.top_k / active
        cpu_s, start_s = float(cost.cpu_s(each)), cost.cpu_start_s(tokens)
        if not cost.has_gpu:
            return start_s + active * cpu_s
        gpu_s, missing_M1 = float(cost.gpu_s(each)), np.arange(active + 1)[:, None]
        fetched_F = np.arange(active + 1)
        left_MF = missing_M1 - fetched_F
        on_gpu_MF = active - left_MF
        gpu_MF = cost.gpu_call_s() * (on_gpu_MF > 0) + on_gpu_MF * gpu_s
        link_F = fetched_F * cost.copy_s() + gpu_s * (fetched_F > 0)
        cpu_MF = (start_s + left_MF * cpu_s) * (left_MF > 0)
        ends_MF = np.where(left_MF >= 0, np.maximum(np.maximum(gpu_MF, link_F), cpu_MF), np.inf)
        return float(ends_MF.min(1) @ _binomial_M(active, miss))


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
    lengths near it follow a little. A length begins by believing its neighbours.
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
                self._own[known] = _bounded(self._own[known] + news * _near(known, tokens) * BESIDE)
        self._own[tokens] = _bounded(own + news / min(weight + 1 + PRIOR_WEIGHT, MOST_WEIGHT))
        self._weight[tokens] = min(weight + 1, MOST_WEIGHT)
        self._all += FOLLOW * news

    def seconds(self, tokens: int) -> float:
        """Expected seconds of a step of so many tokens."""
        return self.expected.predicted_s(tokens) * math.exp((self._all or 0.0) + self._own_by(tokens))

    def _own_by(self, tokens: int) -> float:
        """Logarithm of a length's own correction; by its neighbours' before it was measured."""
        if tokens in self._own:
            return self._own[tokens]
        near = [(own, _near(n, tokens) * self._weight[n]) for n, own in self._own.items()]
        total = sum(near_weight for _, near_weight in near)
        return sum(own * near_weight for own, near_weight in near) / total if total else 0.0


def _binomial_M(trials: int, share: float) -> FloatArray:
    """Probability of 0..trials successes, each with probability `share`, 0 < share < 1."""
    count_M = np.arange(trials + 1)
    ways_M = np.array([math.comb(trials, count) for count in count_M.tolist()], float)
    chance_M: FloatArray = ways_M * share**count_M * (1 - share) ** (trials - count_M)
    return chance_M


@cache
def _near(one: int, other: int) -> float:
    """How much one length says of another: 1 of itself, a quarter of its half."""
    return float(4.0 ** -abs(math.log2(one / other)))


def _bounded(correction: float) -> float:
    return min(max(correction, -BOUND), BOUND)
