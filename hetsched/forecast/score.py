"""Scores of forecasts against what came: recall of the next layer, log score, calibration. Pure; no policy, no machine.

Each forecast is scored at the moment before its layer's router runs: everything up to the layer before is known, and
nothing of the layer itself. Tokens go one by one, as in decoding.

Shapes: S tokens, L layers, E experts, K top-k, B bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, Float32Array, FloatArray, IntArray, Phase
from . import Context, Forecaster, tell
from .fed import Contexts, Nobody

BINS = 20  # of probability, of equal width
CHUNK = 64  # tokens whose forecasts are kept before they are scored
HELD = 1e-4  # probabilities are scored as if between this and one less it


class Score(NamedTuple):
    """What a forecaster's forecasts of the next visit came to, means over all tokens, layers and experts.

    `recall_L`: of the experts that each layer demanded, the share among the top_k likeliest. `log_score`: nats an
    expert of the Bernoulli forecasts, 0 at best. `calibration_error`: mean distance of a forecast from what was
    demanded of all forecasts in its bin; `said_B`, `came_B`, `count_B`: those bins. `observe_s`: seconds that
    learning one layer took, by the clock given.
    """

    name: str
    tokens: int
    recall_L: FloatArray
    log_score: float
    calibration_error: float
    said_B: FloatArray
    came_B: FloatArray
    count_B: IntArray
    observe_s: float

    @property
    def recall(self) -> float:
        """Mean over layers."""
        return float(self.recall_L.mean())


class _Sums:
    """Running sums of what a Score is made of."""

    def __init__(self, layers: int) -> None:
        self.hits_L = np.zeros(layers, np.int64)
        self.count_B, self.said_B, self.came_B = np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS)
        self.nats = 0.0

    def add(self, said_SLE: Float32Array, experts_SLK: npt.NDArray[np.integer]) -> None:
        """Forecasts and what came."""
        top_k = experts_SLK.shape[2]
        came_SLE = np.zeros(said_SLE.shape, np.bool_)
        np.put_along_axis(came_SLE, experts_SLK.astype(np.int64), True, axis=2)
        guess_SLK = np.argpartition(said_SLE, -top_k, axis=2)[:, :, -top_k:]
        self.hits_L += np.take_along_axis(came_SLE, guess_SLK, axis=2).sum(axis=(0, 2))
        bins = np.minimum((said_SLE * BINS).astype(np.int64), BINS - 1).ravel()
        self.count_B += np.bincount(bins, minlength=BINS)
        self.said_B += np.bincount(bins, said_SLE.ravel(), BINS)
        self.came_B += np.bincount(bins, came_SLE.ravel(), BINS)
        held = said_SLE.clip(HELD, 1.0 - HELD)
        self.nats += float(np.log(np.where(came_SLE, held, 1.0 - held)).sum())


def score(
    forecaster: Forecaster,
    geometry: MoEGeometry,
    scored: RoutingTrace,
    history: RoutingTrace | None = None,
    *,
    frequency_LE: FloatArray | None = None,
    contexts: Contexts | None = None,
    clock: Callable[[], float] | None = None,
) -> Score:
    """Start a forecaster from `history` or `frequency_LE`, let it go through `scored` token by token, and score it."""
    layers, (tokens, _, top_k) = geometry.num_layers, scored.experts_TLK.shape
    forecaster.start(geometry, frequency_LE, history)
    sums, taken_s, done = _Sums(layers), 0.0, 0

    def timed(demand: Demand, context: Context) -> None:
        nonlocal taken_s
        begin_s = clock() if clock else 0.0
        tell(forecaster, demand, context)
        taken_s += clock() - begin_s if clock else 0.0

    for said_SLE in forecasts(forecaster, scored, contexts, CHUNK, np.float32, timed):
        sums.add(said_SLE, scored.experts_TLK[done : done + len(said_SLE)])
        done += len(said_SLE)
    return _score_of(forecaster.name, sums, tokens, layers, top_k, taken_s)


def forecasts(
    forecaster: Forecaster,
    scored: RoutingTrace,
    contexts: Contexts | None,
    chunk: int,
    dtype: npt.DTypeLike,
    learn: Callable[[Demand, Context], None] | None = None,
) -> Iterator[npt.NDArray[Any]]:
    """What a started forecaster says of each layer before its router runs: [some tokens, L, E], in order; one array.

    Each token is a step of its own. `learn`: in place of telling the forecaster of a demand.
    """
    given, told = contexts or Nobody(), learn or partial(tell, forecaster)
    tokens, layers, top_k = scored.experts_TLK.shape
    begins_T = np.diff(scored.sequence_T, prepend=-1).astype(bool).tolist()
    ones, experts = [1] * top_k, scored.num_experts
    said_SLE = np.zeros((chunk, layers, experts), dtype)
    for first in range(0, tokens, chunk):
        rows_SLK = np.sort(scored.experts_TLK[first : first + chunk], axis=2).tolist()
        for s, rows in enumerate(rows_SLK):
            for layer, active in enumerate(rows):
                said_SLE[s, layer] = forecaster.next_LE()[layer]
                step, begins = first + s, begins_T[first + s]
                demand = Demand.listed(step, layer, Phase.DECODE, active, ones, 1, experts, None, begins)
                told(demand, given.of(demand))
        yield said_SLE[: len(rows_SLK)]


def _score_of(name: str, sums: _Sums, tokens: int, layers: int, top_k: int, taken_s: float) -> Score:
    count_B = np.maximum(sums.count_B, 1)
    off = np.abs(sums.said_B - sums.came_B).sum() / max(int(sums.count_B.sum()), 1)
    return Score(
        name=name,
        tokens=tokens,
        recall_L=sums.hits_L / max(tokens * top_k, 1),
        log_score=sums.nats / max(int(sums.count_B.sum()), 1),
        calibration_error=float(off),
        said_B=sums.said_B / count_B,
        came_B=sums.came_B / count_B,
        count_B=sums.count_B,
        observe_s=taken_s / max(tokens * layers, 1),
    )
