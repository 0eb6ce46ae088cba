"""What laws of forecasters are tried on: made routing, and all that may be known of it.

Shapes: T tokens, L layers, K top-k, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from ..forecast import NEEDS, Context, tell
from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray, IntArray, Phase

Forecaster: TypeAlias = Any  # `observe` takes a context where the class declares needs
Make = Callable[[], Forecaster]
SHAPE = MoEGeometry("law", num_layers=6, num_experts=10, top_k=3, hidden=8, ffn=8)


def routing(tokens: int, seed: int = 0) -> RoutingTrace:
    """Skewed random routing of one sequence."""
    random = np.random.default_rng(seed)
    shape = (SHAPE.num_layers, SHAPE.num_experts)
    likely_LE = np.log(random.dirichlet(np.full(shape[1], 0.5), shape[0]) + 0.02)
    chosen_TLE = np.argsort(-(likely_LE + random.gumbel(size=(tokens, *shape))), axis=2)
    experts_TLK = np.sort(chosen_TLE[:, :, : SHAPE.top_k], axis=2).astype(np.int16)
    return RoutingTrace(experts_TLK, np.zeros(tokens, np.int32), np.ones(tokens, np.uint8), SHAPE.num_experts)


def started(make: Make, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None) -> Forecaster:
    """A forecaster that has seen nothing but its calibration."""
    forecaster = make()
    forecaster.start(SHAPE, frequency_LE, history)
    return forecaster


class Knowing:
    """All that forecasters may need, made of the trace that is demanded: a Contexts for laws.

    Gates and drafts give 0.9 to the experts that a token will demand and 0.1 to the others; in one case of four they
    are of another token instead, so that there is something to calibrate.
    """

    gives = frozenset(NEEDS)

    def __init__(self, trace: RoutingTrace, tokens_per_step: int = 1) -> None:
        self._per_step = tokens_per_step
        steps_T = (np.arange(trace.num_tokens) // tokens_per_step).astype(np.int32)
        self._future = replace(trace, step_T=steps_T)
        self._said_TLE = _said_TLE(trace)

    def of(self, demand: Demand) -> Context:
        """Everything, for this layer of this step."""
        until = demand.layer + 1
        now_T, next_T = (self._tokens_T(demand.step + later, demand.num_tokens) for later in (0, 1))
        gates_TAE = self._said_TLE[now_T, until : until + 3]
        drafts_TLE = self._said_TLE[now_T]
        drafts_TLE[:, :until] = self._said_TLE[next_T, :until]
        hidden_TH = np.ones((demand.num_tokens, SHAPE.hidden), np.float32)
        gates_ATE = np.ascontiguousarray(gates_TAE.swapaxes(0, 1)) if gates_TAE.shape[1] else None
        return Context(hidden_TH, gates_ATE, drafts_TLE, self._future)

    def _tokens_T(self, step: int, tokens: int) -> IntArray:
        begin = step * self._per_step
        return np.minimum(np.arange(begin, begin + tokens), len(self._said_TLE) - 1)


def _said_TLE(trace: RoutingTrace) -> FloatArray:
    """What gates and drafts say of each token's layers."""
    random, (tokens, layers, top_k) = np.random.default_rng(0), trace.experts_TLK.shape
    other_TL = random.integers(tokens, size=(tokens, layers))
    token_TL = np.where(random.random((tokens, layers)) < 0.25, other_TL, np.arange(tokens)[:, None])
    said_TLE = np.full((tokens, layers, trace.num_experts), 0.1 / max(trace.num_experts - top_k, 1))
    experts_TLK = trace.experts_TLK[token_TL, np.arange(layers)].astype(np.int64)
    np.put_along_axis(said_TLE, experts_TLK, 0.9 / top_k, axis=2)
    return said_TLE


def demands(trace: RoutingTrace, tokens_per_step: int = 1) -> Iterator[tuple[Demand, Context]]:
    """The demands of a trace, step by step and layer by layer, with all that may be known at each."""
    knowing = Knowing(trace, tokens_per_step)
    for step, begin in enumerate(range(0, trace.num_tokens, tokens_per_step)):
        end = min(begin + tokens_per_step, trace.num_tokens)
        phase = Phase.DECODE if tokens_per_step == 1 else Phase.PREFILL
        for layer, tokens_E in enumerate(trace.demand_LE(slice(begin, end))):
            demand = Demand(step, layer, phase, tokens_E, end - begin)
            yield demand, knowing.of(demand)


def teach(forecaster: Forecaster, trace: RoutingTrace, tokens_per_step: int = 1) -> list[tuple[FloatArray, FloatArray]]:
    """Let it observe a trace, step by step; copies of its two forecasts after each layer."""
    said = []
    for demand, context in demands(trace, tokens_per_step):
        tell(forecaster, demand, context)
        said.append((forecaster.demand_LE().copy(), forecaster.next_LE().copy()))
    return said


def drawn(tokens: int, seed: int = 0) -> RoutingTrace:
    """Demands with known probabilities, 0.05 to 0.85 and adding up to top_k in each layer.

    Each token is a systematic sample (Madow 1949), whose inclusion probabilities are exact: a number drawn from 0..1,
    and those one and two more, fall each into an expert's interval of the probabilities, laid end to end.
    """
    random = np.random.default_rng(seed)
    p_E = np.array([0.85, 0.6, 0.5, 0.3, 0.2, 0.2, 0.15, 0.1, 0.05, 0.05])
    chosen_TLK = np.zeros((tokens, SHAPE.num_layers, SHAPE.top_k), np.int16)
    for layer in range(SHAPE.num_layers):
        mixed = random.permutation(SHAPE.num_experts)
        ends_E = np.cumsum(p_E[mixed])
        points_TK = random.random((tokens, 1)) + np.arange(SHAPE.top_k)
        places_TK = np.searchsorted(ends_E, points_TK).clip(max=SHAPE.num_experts - 1)
        chosen_TLK[:, layer] = np.sort(mixed[places_TK], axis=1)
    return RoutingTrace(chosen_TLK, np.zeros(tokens, np.int32), np.ones(tokens, np.uint8), SHAPE.num_experts)
