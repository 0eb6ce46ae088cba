"""Pace: looking ahead as often as it pays, by its own measured time.

Learning and choosing prefetches work beside the lanes, and cost nothing where these take longer. Where they do not,
each layer ends later by the rest, for copies that are expected to save some seconds: both are added up over WINDOW
steps. If the rest is more, only every second step is looked ahead in, then every fourth, and so on; where that pays,
half as many are tried again after a while, and a longer while each time that it was in vain. Prompts always are.

The rule is the same in an engine, in a replay and, compiled, in its loop: plain functions of one array.
"""

from __future__ import annotations

import numpy as np

from ..types import FloatArray, Phase

WINDOW = 16  # steps looked at before a judgement
MOST_PATIENCE = 16  # windows between two tries

# Places in `numbers_P`: steps to each that is looked at, and how many these may become; steps since the last; whether
# this one is looked at, and counted; of this window, steps, seconds outlasted and expected to be saved; windows until
# fewer steps are tried, and between tries; whether this is one.
EVERY, MOST, SINCE, LOOKING, COUNTED, LOOKS, COST_S, GAIN_S, WAIT, PATIENCE, TRYING = range(11)
NUMBERS = 11


def new_pace(most: int) -> FloatArray:
    """`numbers_P` that begin with every step; `most` of 1: and stay there."""
    numbers_P = np.zeros(NUMBERS)
    numbers_P[[EVERY, MOST, LOOKING, WAIT, PATIENCE]] = 1, most, 1, 1, 1
    return numbers_P


def begin(numbers_P: FloatArray, is_prompt: bool) -> bool:
    """A step begins: whether it is looked ahead in."""
    p = numbers_P
    if p[MOST] <= 1:
        return True
    p[LOOKS] += p[COUNTED]
    if p[LOOKS] >= WINDOW:
        if p[COST_S] > p[GAIN_S]:
            p[EVERY] = min(2 * p[EVERY], p[MOST])
            p[PATIENCE] = min(2 * p[PATIENCE], MOST_PATIENCE) if p[TRYING] else p[PATIENCE]
            p[WAIT], p[TRYING] = p[PATIENCE], 0
        elif p[EVERY] > 1:
            p[PATIENCE] = 1 if p[TRYING] else p[PATIENCE]
            p[WAIT] = p[WAIT] - 1 if not p[TRYING] else 0
            p[TRYING] = p[WAIT] <= 0
            p[EVERY] = p[EVERY] / 2 if p[TRYING] else p[EVERY]
        p[LOOKS] = p[COST_S] = p[GAIN_S] = 0
    p[LOOKING] = p[COUNTED] = 1
    if is_prompt:
        p[COUNTED] = 0
        return True
    p[SINCE] += 1
    if p[SINCE] < p[EVERY]:
        p[LOOKING] = p[COUNTED] = 0
        return False
    p[SINCE] = 0
    return True


def account(numbers_P: FloatArray, outlasted_s: float, gained_s: float) -> None:
    """One layer's seconds, if its step counts."""
    if numbers_P[COUNTED]:
        numbers_P[COST_S] += outlasted_s
        numbers_P[GAIN_S] += gained_s


def outlasted_s(beside_s: float, makespan_s: float, gpu_end_s: float, cpu_end_s: float) -> float:
    """What looking ahead for so long added to a layer: what its lanes' ends do not explain."""
    return min(beside_s, max(0.0, makespan_s - max(gpu_end_s, cpu_end_s)))


class Pace:
    """The rule as a scheduler follows it. `most`: of so many steps one is looked at at least; 1: every one."""

    def __init__(self, most: int = 1) -> None:
        self.numbers_P = new_pace(most)
        self.looking = True

    @property
    def every(self) -> int:
        """Steps to each that is looked at."""
        return int(self.numbers_P[EVERY])

    def begin_step(self, phase: Phase) -> None:
        """A step begins."""
        self.looking = bool(begin(self.numbers_P, phase == Phase.PREFILL))
