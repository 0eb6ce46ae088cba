"""Routing that no cache likes: cycles, what was not wanted of late, no habit at all, and topics that change at once.

Made in memory, for benchmarks and tests; the same seed gives the same trace.

Shapes: T tokens, L layers, E experts, K choices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import InputError
from ..types import IntArray, Phase
from .synth import SynthParams, generate
from .trace import RoutingTrace

TOPIC_TOKENS = 64  # of a topic
TOPIC_SKEW, TOPIC_LOCALITY = 1.4, 0.25


def cyclic(shape: tuple[int, int, int], tokens: int, seed: int = 0) -> RoutingTrace:
    """Every layer asks for its experts in turn, K at a time: what was just used is wanted last of all."""
    (layers, experts, top_k), rng = shape, np.random.default_rng(seed)
    order_LE = np.stack([rng.permutation(experts) for _ in range(layers)])
    turn_TK = np.arange(tokens * top_k).reshape(tokens, top_k) % experts
    return _trace(np.swapaxes(order_LE[:, turn_TK], 0, 1), experts)


def anti_correlated(shape: tuple[int, int, int], tokens: int, seed: int = 0) -> RoutingTrace:
    """Each token draws from the half of the experts that has not been wanted for longest."""
    (layers, experts, top_k), rng = shape, np.random.default_rng(seed)
    used_LE = rng.permuted(np.tile(-np.arange(experts), (layers, 1)), axis=1)
    experts_TLK = np.empty((tokens, layers, top_k), np.int64)
    for t in range(tokens):
        oldest_LE = np.argsort(used_LE, axis=1)[:, : max(experts // 2, top_k)]
        experts_TLK[t] = rng.permuted(oldest_LE, axis=1)[:, :top_k]
        np.put_along_axis(used_LE, experts_TLK[t], t + 1, axis=1)
    return _trace(experts_TLK, experts)


def uniform(shape: tuple[int, int, int], tokens: int, seed: int = 0) -> RoutingTrace:
    """Every expert is as likely as any other, whatever came before."""
    return _synthetic(shape, tokens, seed, 1, 0.0, 0.0)


def topics(shape: tuple[int, int, int], tokens: int, seed: int = 0) -> RoutingTrace:
    """A few experts are popular, others in every topic; a topic ends without warning after TOPIC_TOKENS tokens."""
    return _synthetic(shape, tokens, seed, max(tokens // TOPIC_TOKENS, 1), TOPIC_SKEW, TOPIC_LOCALITY)


PATTERNS: dict[str, Callable[[tuple[int, int, int], int, int], RoutingTrace]] = {
    "anti-correlated": anti_correlated,
    "cyclic": cyclic,
    "uniform": uniform,
    "topic shifts": topics,
}


def _synthetic(
    shape: tuple[int, int, int], tokens: int, seed: int, topics: int, skew: float, locality: float
) -> RoutingTrace:
    layers, experts, top_k = shape
    numbers = {"layers": layers, "experts": experts, "top_k": top_k, "tokens": tokens, "sequences": topics}
    params = SynthParams.uniform(**numbers, skew=skew, locality=locality, drift=1.0)
    return _trace(np.concatenate([chunk_CLK for _, chunk_CLK in generate(params, seed)]), experts)


def _trace(experts_TLK: IntArray, experts: int) -> RoutingTrace:
    """Decode tokens of one sequence. Raises InputError where a token would ask for an expert twice."""
    tokens, _, top_k = experts_TLK.shape
    if top_k > experts:
        raise InputError(f"{top_k} choices of {experts} experts; there must be at least as many experts")
    phase_T = np.full(tokens, int(Phase.DECODE), np.uint8)
    return RoutingTrace(experts_TLK.astype(np.int16), np.zeros(tokens, np.int32), phase_T, experts)
