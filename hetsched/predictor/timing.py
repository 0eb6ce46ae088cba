"""What a token's forecasts take on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..geometry import MoEGeometry
from .learned import Learned
from .store import Stored, compact_of

TOKENS, ROUNDS = 50, 9


def forecast_seconds(path: str | Path, stored: Stored) -> float:
    """Seconds to learn and to forecast all layers of one token in compiled code, on one core: the best of some rounds.

    Hidden states, if it was trained on them, are left out: they cost a product of a vector with a matrix a layer more.
    """
    meta = stored.meta
    layers, experts, top_k = meta["layers"], meta["num_experts"], meta["top_k"]
    forecaster = Learned(compact_of(path, stored))
    forecaster.start(MoEGeometry("timed", layers, experts, top_k, hidden=1, ffn=1))
    random = np.random.default_rng(0)
    chosen_TLK = random.random((TOKENS, layers, experts)).argsort(axis=2)[:, :, :top_k].astype(np.int16)
    forecaster.over_tokens(chosen_TLK)
    taken_s = []
    for _ in range(ROUNDS):
        begin_s = time.perf_counter()
        forecaster.over_tokens(chosen_TLK)
        taken_s.append(time.perf_counter() - begin_s)
    return min(taken_s) / TOKENS
