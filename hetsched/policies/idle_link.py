"""Copies for an idle link: newcomers in the order in which a rule wants them, in the places that it values least.

Shapes: F all experts flat (layer * E + expert), E experts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf

import numpy as np

from ..policy import View
from ..residency import ABSENT
from ..types import Demand, ExpertId, Fetch, FloatArray, IntArray


def room(demand: Demand, view: View, depth: int) -> int:
    """How many prefetches may be added where at most `depth` shall wait behind the copies that the layer waits for.

    Copies of the layer's own experts are not counted; 0 or less where the link has enough to do.
    """
    waiting = 0
    for (layer, expert), _ in view.link.in_flight:
        waiting += layer != demand.layer or expert not in demand.active
    return depth - waiting


def copies(
    wanted: Iterable[int],
    demand: Demand,
    view: View,
    keep_F: FloatArray,
    most: int,
    cause: str,
    *,
    layer: int | None = None,
    kept: Collection[int] = (),
    below: float = inf,
) -> list[Fetch]:
    """At most `most` prefetches of the absent experts among `wanted` (flat, distinct), in that order.

    Each takes a free slot or the evictable expert with the lowest `keep_F` less than `below`; only those of `layer`, if
    that is given, and none in `kept`.
    """
    state_F, experts = view.residency.state_LE.reshape(-1), demand.num_experts
    chosen: list[Fetch] = []
    free, victims = view.residency.free_slots, None
    for new in wanted:
        if len(chosen) >= most:
            break
        if state_F[new] != ABSENT:
            continue
        place = None
        if free > 0:
            free -= 1
        else:
            if victims is None:
                order = _cheapest_first(demand, view, keep_F, layer, below).tolist()
                victims = iter([victim for victim in order if victim not in kept])
            victim = next(victims, -1)
            if victim < 0:
                break
            place = ExpertId(*divmod(victim, experts))
        chosen.append(Fetch(ExpertId(*divmod(new, experts)), place, prefetch=True, cause=cause))
    return chosen


def _cheapest_first(demand: Demand, view: View, keep_F: FloatArray, layer: int | None, below: float) -> IntArray:
    flat = view.residency.evictable(demand.layer, demand.active_N)
    if layer is not None:
        flat = flat[flat // demand.num_experts == layer]
    keep = keep_F[flat]
    if below < inf:
        flat, keep = flat[keep < below], keep[keep < below]
    cheapest: IntArray = flat[np.argsort(keep, kind="stable")]
    return cheapest


def expected(next_E: FloatArray, top_k: int, num_tokens: int) -> tuple[list[int], list[int]]:
    """Experts that a layer is expected to ask for in a step of so many tokens, likeliest first, and their tokens.

    `next_E`: P(demanded) by one token. One token asks for the top_k likeliest; in larger steps an expert is expected
    where its mean is at least half a token.
    """
    order = np.argsort(-next_E, kind="stable")
    if num_tokens == 1:
        return order[:top_k].tolist(), [1] * top_k
    mean_E = next_E[order] * num_tokens
    tokens_E = np.maximum(np.rint(mean_E), 1)[mean_E >= 0.5]
    return order[: len(tokens_E)].tolist(), tokens_E.astype(int).tolist()
