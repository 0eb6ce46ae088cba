"""Timing of one operation: repeated until it is quiet, summarised by percentiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

QUIET = 0.25  # (p90 - p10) / median of a round that needs no repetition
ROUNDS = 3  # a noisy round is repeated; other work on the machine only ever adds time, so the fastest round counts
MIN_CALLS = 5
MAX_CALLS = 400


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, 10th and 90th percentile of the quietest round; `calls` made in that round."""

    median_s: float
    p10_s: float
    p90_s: float
    calls: int

    @property
    def spread(self) -> float:
        """(p90 - p10) / median."""
        return (self.p90_s - self.p10_s) / self.median_s


def summarise(seconds: Sequence[float]) -> Timing:
    """Percentiles of measured durations, by the nearest rank."""
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    return Timing(rank(0.5), rank(0.1), rank(0.9), len(ordered))


def time_calls(
    call: Callable[[int], object], budget_s: float, clock: Callable[[], float] = perf_counter, rounds: int = ROUNDS
) -> Timing:
    """Time call(0), call(1), ... for about `budget_s` in all; the number lets the call rotate through fresh data.

    One call warms up.
    """
    call(0)
    return quietest(lambda first, round_s: _one_round(call, round_s, clock, first), budget_s, rounds)


def quietest(one_round: Callable[[int, float], list[float]], budget_s: float, rounds: int = ROUNDS) -> Timing:
    """The quietest of up to `rounds` rounds of one_round(number of the first call, seconds to spend).

    A round with a large spread is repeated, and the round with the lowest median is kept.
    """
    best: Timing | None = None
    number = 1
    for _ in range(rounds):
        timing = summarise(one_round(number, budget_s / rounds))
        number += timing.calls
        if best is None or timing.median_s < best.median_s:
            best = timing
        if timing.spread <= QUIET:
            break
    assert best is not None
    return best


def time_together(
    calls: Sequence[Callable[[int], object]],
    budget_s: float,
    clock: Callable[[], float] = perf_counter,
    rounds: int = 4,
) -> list[Timing]:
    """Time several calls in turns, within about `budget_s` in all: a busy moment of the machine meets them alike.

    Of each, the round with the lowest median is kept.
    """
    best: list[Timing | None] = [None] * len(calls)
    number = 1
    for call in calls:
        call(0)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            timing = summarise(_one_round(call, budget_s / rounds / len(calls), clock, number))
            number += timing.calls
            kept = best[i]
            best[i] = timing if kept is None or timing.median_s < kept.median_s else kept
    return [timing for timing in best if timing is not None]


def _one_round(
    call: Callable[[int], object], budget_s: float, clock: Callable[[], float], first_number: int
) -> list[float]:
    durations: list[float] = []
    start = now = clock()
    while _goes_on(len(durations), now - start, budget_s):
        before = clock()
        call(first_number + len(durations))
        now = clock()
        durations.append(now - before)
    return durations


def _goes_on(calls: int, spent_s: float, budget_s: float) -> bool:
    """At least MIN_CALLS, unless they take more than twice the budget; at most MAX_CALLS and the budget."""
    if calls < MIN_CALLS:
        return calls == 0 or spent_s < 2 * budget_s
    return spent_s < budget_s and calls < MAX_CALLS
