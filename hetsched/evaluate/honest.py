"""honest: a forecast uses what is known before the layer's router ran, copies take link time, hits count at demand.

Strategies run in the project's own replay (Scheduler, policy, solver and link as in a model, on a simulated machine);
a policy that is built around a forecaster is run once with each. How right the forecasts are is judged at the last
moment at which they are of use: when the layer before has spoken. As many guesses as the model's top-k.

Shapes: S sequences, N steps, C counts of a board.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..board import N_ACTIVE, N_DECODED, N_FETCHES, N_HITS, N_PREFETCHES, N_TOKENS, N_WASTED
from ..machine.profile import HardwareProfile
from ..policy import traits_of
from ..replay.cell import Cell
from ..replay.opened import Bench
from ..replay.simulator import Replay
from ..replay.strategies import Strategy
from ..traces.split import sequence_starts
from ..types import FloatArray, IntArray, Phase
from .forecasters import Named, asking, takes_forecaster
from .foresight import Progress, foresee
from .measures import Sums
from .result import Row

STRATEGIES = "on-demand-lru,hetsched"
NOTES = (
    "precision, recall, F1, accuracy and calibration error are of the forecast just before the layer's router ran",
    "they are of as many guesses as top-k; hit rate, bytes and tokens/s are of the strategy that uses the forecaster",
    "a strategy that can do without a choice of forecaster has one row, without forecast measures",
    "hits count at demand: an expert that is still on its way is none",
)


class Run(NamedTuple):
    """A strategy to replay, and the forecaster chosen for it."""

    strategy: Strategy
    forecaster: Named | None


def honest(
    bench: Bench,
    machine: HardwareProfile,
    strategies: Sequence[Strategy],
    forecasters: Sequence[Named],
    fractions: Sequence[float],
    progress: Progress,
    distance: int = 1,
) -> Iterator[Row]:
    """Rows by share of the experts: strategies without a choice of forecaster first, then each with each."""
    runs = list(_runs(strategies, forecasters))
    parts, done = len(forecasters) + len(runs) * len(fractions), 0

    def part(count: int, of: int) -> None:
        progress(done * of + count, parts * of)

    said: dict[str, Sums] = {}
    for named in forecasters:
        seen = foresee(named.fed(bench), bench, bench.scored.top_k, distance=distance, progress=part)
        said[named.label] = seen.sums_S
        done += 1
    for fraction in fractions:
        for strategy, using in runs:
            cell, told = Cell(machine, fraction, strategy), bench if using is None else asking(bench, using)
            ran, says = ran_sums(bench, cell.replay(told, part)), traits_of(cell.strategy.policy())
            done += 1
            yield Row.of(
                using and using.label,
                strategy.label,
                fraction,
                *([] if using is None else [said[using.label]]),
                ran,
                hardware=machine.name,
                clairvoyant=says.clairvoyant or bool(getattr(using and using.forecaster(), "clairvoyant", False)),
                stand_in=says.stand_in,
            )


def _runs(strategies: Sequence[Strategy], forecasters: Sequence[Named]) -> Iterator[Run]:
    choosing = [strategy for strategy in strategies if takes_forecaster(strategy)]
    yield from (Run(strategy, None) for strategy in strategies if strategy not in choosing)
    yield from (Run(strategy, named) for strategy in choosing for named in forecasters)


def ran_sums(bench: Bench, replayed: Replay) -> Sums:
    """What a replay came to, by sequence, as sums for measures.py."""
    steps, starts_S1 = bench.steps, sequence_starts(bench.scored)
    first_S = np.searchsorted(steps.begin_S, starts_S1[:-1])  # step that each sequence begins with
    counts_NC = np.diff(replayed.counts_SC, axis=0, prepend=0)
    decode_s_N = replayed.step_s_S * (steps.phase_S != Phase.PREFILL)
    expert_bytes = bench.study.geometry.expert_bytes

    def by_sequence(per_step_N: IntArray | FloatArray) -> FloatArray:
        return np.add.reduceat(per_step_N, first_S).astype(float)

    return {
        "active": by_sequence(counts_NC[:, N_ACTIVE]),
        "hits": by_sequence(counts_NC[:, N_HITS]),
        "bytes": expert_bytes * by_sequence(counts_NC[:, N_FETCHES] + counts_NC[:, N_PREFETCHES]),
        "wasted_bytes": expert_bytes * by_sequence(counts_NC[:, N_WASTED]),
        "tokens": by_sequence(counts_NC[:, N_TOKENS]),
        "decoded": by_sequence(counts_NC[:, N_DECODED]),
        "decode_s": by_sequence(decode_s_N),
    }
