"""Forecasts of the published architecture, for scoring: in torch, and far too slow to decide by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..traces.trace import RoutingTrace
from ..types import FloatArray
from .published import CONTEXT, PublishedBatches, PublishedNet
from .store import Stored

TOKENS = 4 * CONTEXT  # forecast at once


def published_net(stored: Stored) -> PublishedNet:
    """The network of a file."""
    meta = stored.meta
    net = PublishedNet(
        meta["layers"], meta["num_experts"], hidden=meta["hidden"], inner=meta["width"], protocol=meta["protocol"]
    )
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in stored.arrays.items()})
    return net.eval()


def published_forecasts(stored: Stored, held_out: RoutingTrace) -> Iterator[FloatArray]:
    """Probabilities of all tokens, in order: float arrays [some tokens, L, E]."""
    meta, net = stored.meta, published_net(stored)
    batches = PublishedBatches(held_out, hidden=bool(meta["hidden"]), protocol=meta["protocol"])
    p_TLE = np.zeros((0, meta["layers"], meta["num_experts"]))
    for i in range(0, len(batches.pieces), meta["layers"]):  # one run of tokens, all layers
        first, end, _ = batches.pieces[i]
        with torch.inference_mode():
            logits_LTE = net.logits(batches.batch(range(i, i + meta["layers"])))
        p_TLE = np.concatenate([p_TLE, logits_LTE.sigmoid().transpose(0, 1)[: end - first].double().numpy()])
        if len(p_TLE) >= TOKENS:
            yield p_TLE
            p_TLE = p_TLE[:0]
    if len(p_TLE):
        yield p_TLE
