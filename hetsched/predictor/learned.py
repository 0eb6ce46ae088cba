"""learned: a compact predictor, trained beforehand, that goes on learning from what is demanded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..forecast import shares_LE
from ..forecast.transition_kernels import renew
from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, Float32Array, FloatArray
from . import kernels
from .compact import REACH, Compact
from .store import load_compact

VARIABLE = "HETSCHED_PREDICTOR"
LONG = 5000.0  # steps over which the long mean forgets


class Learned:
    """Forecasts of a compact predictor, `reach` layers ahead, from ids (and hidden states, if it was trained on them).

    `predictor`: its file or its numbers; None: the file that HETSCHED_PREDICTOR names. At every layer its biases, its
    outputs and a table of pairs, of an expert and one of the layer before, descend the gradient of the log score at
    `bias_rate`, `out_rate` and `pair_rate`: a text of another kind than it was trained on is learned within some
    hundred tokens. The file stays as it is. A step of T tokens counts as T observations of demand, at most
    `max_tokens`. `needs`: "hidden" if it was trained on hidden states.
    """

    name = "learned"
    needs: frozenset[str] = frozenset()

    def __init__(
        self,
        predictor: Compact | str | Path | None = None,
        reach: int = REACH,
        fast: float = 0.3,
        slow: float = 0.05,
        max_tokens: int = 64,
        bias_rate: float = 0.02,
        out_rate: float = 0.5,
        pair_rate: float = 0.8,
    ) -> None:
        if predictor is None:
            predictor = os.environ.get(VARIABLE) or _no_file()
        self._net = predictor if isinstance(predictor, Compact) else load_compact(predictor)
        self.reach = reach
        if self._net.shape[3]:
            self.needs = frozenset({"hidden"})
        self._rates = (fast, slow, max_tokens)
        self._settings = np.array((0.0, 0.0, 0.0, bias_rate, out_rate, pair_rate, reach))

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin from the calibration trace, else its frequencies, else the uniform share.

        Raises InputError for a model of another shape than the predictor's.
        """
        layers, experts, width, _ = self._net.shape
        if (layers, experts) != (geometry.num_layers, geometry.num_experts):
            raise InputError(
                f"the predictor is of {layers} layers with {experts} experts, {geometry.name} has "
                f"{geometry.num_layers} with {geometry.num_experts}; train one on a trace of this model"
            )
        self._live = self._net._replace(bias_LE=self._net.bias_LE.copy(), out_LHE=self._net.out_LHE.copy())
        self._state = kernels.empty(layers, experts, width)
        table_5LE = self._state.table_5LE
        table_5LE[[kernels.MEAN, kernels.SLOW, kernels.FAST]] = shares_LE(geometry, frequency_LE, history)
        steps = 0 if history is None else history.num_tokens
        self._rates_R = np.array((*self._rates, steps, LONG), float)
        self._share_E = np.ones(experts)
        kernels.begin(self._live, self._state)
        self._compile()

    def _compile(self) -> None:
        """Have `observe` compiled, or read from disk, now and not in the first step: on arrays of the same types."""
        layers, experts, width, _ = self._net.shape
        state = kernels.empty(layers, experts, width)
        kernels.observe(self._live, state, 0, np.zeros(0, np.int64), self._share_E[:0], np.zeros(7))

    def observe(self, demand: Demand, context: Any = None) -> None:
        """Learn one layer's demand; of hidden states, `context.hidden_TH` [T, D], their mean.

        Raises InputError where hidden states are needed and not there, or of another width.
        """
        if self.needs:
            self._state.token_4H[kernels.GIVEN] = self._given(demand.layer, getattr(context, "hidden_TH", None))
        tokens, active = demand.num_tokens, len(demand.active)
        if demand.layer == 0:
            renew(self._settings, self._rates_R, tokens)
        self._share_E[:active] = 1.0 if tokens == 1 else demand.share_N
        share_N = self._share_E[:active]
        kernels.observe(self._live, self._state, demand.layer, demand.active_N, share_N, self._settings)

    def _given(self, layer: int, hidden_TD: npt.NDArray[Any] | None) -> Float32Array:
        """What a layer's hidden states add to h."""
        width = self._net.shape[3]
        if hidden_TD is None or hidden_TD.shape[1] != width:
            found = "there are none" if hidden_TD is None else f"they have {hidden_TD.shape[1]}"
            raise InputError(f"the predictor needs hidden states of {width} numbers, and {found}; train it on ids")
        given_H: Float32Array = hidden_TD.mean(axis=0, dtype=np.float32) @ self._live.hidden_LDH[layer]
        return given_H

    def kernel(self) -> tuple[str, tuple[str, ...], Any, Any]:
        """Its name, sources, the compiled form of observe, and the arrays that this one works on."""
        known = (*self._live, *self._state, self._settings, self._rates_R, self._share_E)
        return self.name, kernels.SOURCES, kernels.learn_from, known

    def over_tokens(self, experts: Any) -> None:
        """Observe steps of one token each, int16 [T, L, K], in compiled code."""
        kernels.over_tokens(experts, self._live, self._state, self._settings, self._rates_R)

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]."""
        slow_LE: FloatArray = self._state.table_5LE[kernels.SLOW]
        return slow_LE

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        next_LE: FloatArray = self._state.table_5LE[kernels.NEXT]
        return next_LE


def _no_file() -> str:
    raise InputError(
        f"the forecaster 'learned' needs a predictor: set {VARIABLE} to a file of 'hetsched predictor train'"
    )
