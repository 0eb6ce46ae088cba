"""transition: the experts of the layers before tell which ones the next layers will ask for.

Learned layer-to-layer co-occurrence is an old idea of this field (Mixtral-Offloading and many after it look one layer
ahead). Here the log-odds of an expert in one of the next layers are a weighted sum of its own past and of what the last
four layers' choices say about it:

    logit P(e at l + d) = w0 + w1 logit(mean) + w2 logit(fast) + w3 logit(slow)
                        + sum over r of w(4 + r) * sum over a active r layers back of [logit P(e | a) - logit P(e)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import Learned, shares_LE
from .transition_kernels import (
    CAP,
    FAST,
    LEAST,
    MEAN,
    MOST,
    NEXT,
    OWN,
    SEEN,
    SLOW,
    SOURCES,
    STEPS,
    empty,
    fit,
    learn_from,
    observe,
    renew,
)

# Rounded from a logistic regression on the first halves of two traces (gpt-oss-20b, DeepSeek-V2-Lite), which agreed.
WEIGHTS = (-0.15, 0.5, 0.13, 0.28, 0.27, 0.15, 0.11, 0.12)
LATEST = 100_000  # tokens of a calibration trace that are counted, the last ones
LONG = 5000.0  # steps over which the long mean forgets


class Transition:
    """Own demand, averaged over three time scales, and co-occurrence up to `distance` layers ahead, both online.

    Only steps of one token teach co-occurrence: in larger ones it is not known which token asked for what. A step of T
    tokens counts as T observations of demand, at most `max_tokens`.
    """

    name = "transition"

    def __init__(
        self,
        distance: int = 8,
        fast: float = 0.3,
        slow: float = 0.05,
        max_tokens: int = 64,
        weights: Sequence[float] = WEIGHTS,
    ) -> None:
        self.distance = distance
        self.reach: int | None = distance
        self.rates = (fast, slow)
        self.max_tokens = max_tokens
        self._settings = np.array((0.0, 0.0, 0.0, *weights))

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin from the calibration trace, else its frequencies, else the uniform share."""
        layers, experts = geometry.num_layers, geometry.num_experts
        distances = max(1, min(self.distance, layers - 1))
        self._state = empty(layers, experts, distances)
        table_6LE = self._state.table_6LE
        table_6LE[[MEAN, SLOW, FAST, NEXT]] = shares_LE(geometry, frequency_LE, history)
        share_LE = table_6LE[MEAN].clip(LEAST, MOST)
        self._state.alone_LE[:] = np.log(share_LE / (1.0 - share_LE))
        constant, *own_weights = self._settings[3:7]
        table_6LE[OWN] = constant + sum(own_weights) * self._state.alone_LE
        if history is not None:
            fit(np.array(history.experts_TLK[-LATEST:], np.int16), self._state)
        self._rates = np.array(
            (*self.rates, self.max_tokens, 0 if history is None else history.num_tokens, LONG), float
        )
        self._share_E = np.ones(experts)
        self._top_k = geometry.top_k

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        tokens, active = demand.num_tokens, len(demand.active)
        if demand.layer == 0:
            renew(self._settings, self._rates, tokens)
        self._share_E[:active] = 1.0 if tokens == 1 else demand.share_N
        share_N = self._share_E[:active]
        observe(*self._state, demand.layer, demand.active_N, share_N, tokens == 1, self._settings)

    def kernel(self) -> tuple[str, tuple[str, ...], Any, Any]:
        """Its name, sources, the compiled form of observe, and the arrays that this one works on."""
        known = (*self._state, self._settings, self._rates, self._share_E)
        return self.name, SOURCES, learn_from, known

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]."""
        slow_LE: FloatArray = self._state.table_6LE[SLOW]
        return slow_LE

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        next_LE: FloatArray = self._state.table_6LE[NEXT]
        return next_LE

    def learned(self) -> Learned:
        """Tokens counted: of each expert, and of each pair of experts."""
        state = self._state
        return {"seen_LE": state.table_6LE[SEEN].copy(), "pairs_LEDE": state.count_LEDE.astype(np.float32)}

    def recall(self, learned: Learned) -> None:
        """Counts of another run on top of the calibration's, as many as have room."""
        table_6LE, count_LEDE = self._state.table_6LE, self._state.count_LEDE
        seen_LE, pairs_LEDE = (np.maximum(learned.get(name, 0.0), 0.0) for name in ("seen_LE", "pairs_LEDE"))
        if pairs_LEDE.shape != count_LEDE.shape or seen_LE.shape != table_6LE[SEEN].shape:
            return  # learned with another `distance`
        all_LE, all_LEDE = table_6LE[SEEN] + seen_LE, count_LEDE + pairs_LEDE
        most = np.maximum(all_LE / CAP, all_LEDE.max(axis=(2, 3)) / np.iinfo(count_LEDE.dtype).max)
        scale_LE = 1.0 / np.maximum(most, 1.0)
        table_6LE[SEEN] = np.rint(all_LE * scale_LE)
        count_LEDE[:] = np.minimum(np.rint(all_LEDE * scale_LE[:, :, None, None]), table_6LE[SEEN][:, :, None, None])
        self._rates[STEPS] += seen_LE.sum() / (len(seen_LE) * self._top_k)
