"""Traces with a structure that counting cannot see, and predictors for the conformance laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetsched.geometry import MoEGeometry
from hetsched.predictor.compact import untrained
from hetsched.predictor.learned import Learned
from hetsched.traces.trace import RoutingTrace, save_trace

EXPERTS, LAYERS = 8, 4


def mixed(tokens: int = 600, sequences: int = 10, seed: int = 0, **more: Any) -> RoutingTrace:
    """One expert a layer; a layer's is told by the two before it together, and by neither of them alone.

    Layers 0 and 1 are uniform; then e_l = (e_(l-1) + e_(l-2) + l) mod 8. Given one of the two, all are as likely.
    """
    random = np.random.default_rng(seed)
    chosen = [random.integers(EXPERTS, size=tokens) for _ in range(2)]
    for layer in range(2, LAYERS):
        chosen.append((chosen[-1] + chosen[-2] + layer) % EXPERTS)
    return _trace(np.stack(chosen, axis=1)[:, :, None], sequences, **more)


def permuted(tokens: int = 600, sequences: int = 10, seed: int = 0, **more: Any) -> RoutingTrace:
    """One expert a layer; each later layer's is a fixed permutation of the one before; frequencies say nothing."""
    random = np.random.default_rng(seed)
    orders = [np.random.default_rng(layer).permutation(EXPERTS) for layer in range(LAYERS)]
    chosen = [random.integers(EXPERTS, size=tokens)]
    for order in orders[1:]:
        chosen.append(order[chosen[-1]])
    return _trace(np.stack(chosen, axis=1)[:, :, None], sequences, **more)


def hinted(tokens: int = 600, sequences: int = 10, width: int = 12, seed: int = 0) -> RoutingTrace:
    """Uniform choices of every layer by itself, which the hidden state of the layer before says plainly."""
    random = np.random.default_rng(seed)
    chosen_TL = random.integers(EXPERTS, size=(tokens, LAYERS))
    hidden_TLH = random.normal(size=(tokens, LAYERS, width)) * 0.1
    for layer in range(LAYERS - 1):
        hidden_TLH[np.arange(tokens), layer, chosen_TL[:, layer + 1]] += 2.0
    return _trace(chosen_TL[:, :, None], sequences, hidden_TLH=hidden_TLH.astype(np.float16))


def saved(path: Path, trace: RoutingTrace) -> Path:
    """The file of a trace."""
    save_trace(path, trace)
    return path


def _trace(chosen_TLK: Any, sequences: int, **more: Any) -> RoutingTrace:
    tokens = len(chosen_TLK)
    sequence_T = (np.arange(tokens) * sequences // tokens).astype(np.int32)
    return RoutingTrace(chosen_TLK.astype(np.int16), sequence_T, np.ones(tokens, np.uint8), EXPERTS, **more)


class AnyShape:
    """`learned` with an untrained predictor of whatever model it is started for: files are of one shape."""

    name = "learned"
    reach: int | None = None

    def start(self, geometry: MoEGeometry, *calibration: Any) -> None:
        """Begin anew."""
        self._inner = Learned(untrained(geometry))
        self.reach = self._inner.reach
        self._inner.start(geometry, *calibration)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
