"""published: the cache simulation of MoE-Beyond (arXiv 2508.17137), as its authors ran it.

One LRU holds a tenth of all experts, whatever their layer. It begins full of experts drawn at random; ten tokens warm
it up. Before a layer is counted, the predictor's six likeliest experts of that very layer are inserted, at no cost;
the hit rate is hits over accesses. No copy takes time, so what the prediction comes too late for cannot show.

Their predictor is fed what the same layer's router is fed, and so sees the answer's own input; nothing can do that
from expert ids. Here each forecaster says what it knows before the layer's router ran, and `oracle` is the roof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import InputError
from ..replay.opened import Bench
from ..traces.split import sequence_starts
from ..types import FloatArray
from .cache import HITS, LOADS, WASTED, fill, new_cache, serve
from .forecasters import Named
from .foresight import Foresight, Progress, foresee, perfect
from .measures import Sums
from .result import Row

GUESSES, WARM_UP, FRACTION = 6, 10, 0.1
SEED = 0
ORACLE = "oracle"
STRATEGY = "lru"
NOTES = (
    "copies cost nothing and arrive at once, so the hit rate says nothing of speed; bytes are counted all the same",
    "the published predictor was fed the same layer's router input, which ids cannot stand in for: it has no row",
    "forecasters here say what they know before the layer's router ran; oracle, which is told, is the roof",
    "each sequence begins with a cache filled at random (seed 0); its first 10 tokens warm it up and are not counted",
)


def published(
    bench: Bench, forecasters: Sequence[Named], fractions: Sequence[float], progress: Progress, distance: int = 1
) -> Iterator[Row]:
    """Rows by share of the experts: no predictor, each forecaster, the oracle. Needs steps of one token."""
    if not (np.diff(sequence_starts(bench.scored)) > WARM_UP).any():
        raise InputError(
            f"no scored sequence has more than {WARM_UP} tokens, which warm the cache up; give longer ones"
        )
    parts = len(forecasters) + 1
    seen: dict[str | None, Foresight | None] = {None: None}
    for i, named in enumerate(forecasters):
        seen[named.label] = foresee(
            named.fed(bench),
            bench,
            GUESSES,
            distance=distance,
            warm_up=WARM_UP,
            progress=lambda done, of, i=i: progress(i * of + done, parts * of),  # type: ignore[misc]
        )
    seen[ORACLE] = perfect(bench, GUESSES, warm_up=WARM_UP)
    for fraction in fractions:
        for label, foresight in seen.items():
            said = [] if foresight is None else [foresight.sums_S]
            counted = simulation(bench, fraction, foresight)
            yield Row.of(label, STRATEGY, fraction, *said, counted, clairvoyant=label == ORACLE)


def simulation(bench: Bench, fraction: float, foresight: Foresight | None) -> Sums:
    """Hits and bytes of each sequence, with guesses inserted ahead of each layer."""
    trace, geometry = bench.scored, bench.study.geometry
    layers, experts = geometry.num_layers, geometry.num_experts
    slots = int(fraction * layers * experts)
    starts_S1, random = sequence_starts(trace), np.random.default_rng(SEED)
    none_TL0 = np.zeros((trace.num_tokens, layers, 0), np.int16)
    guesses_TLG = none_TL0 if foresight is None else foresight.guesses_TLG
    counts_S3 = np.zeros((len(starts_S1) - 1, 3))
    for s, (begin, end) in enumerate(zip(starts_S1[:-1].tolist(), starts_S1[1:].tolist(), strict=True)):
        cache = new_cache(layers, experts, slots)
        fill(cache, random.permutation(layers * experts)[:slots].astype(np.int64))
        counts_T3 = serve(cache, experts, trace.experts_TLK[begin:end], guesses_TLG[begin:end])
        counts_S3[s] = counts_T3[WARM_UP:].sum(axis=0)
    tokens_S = np.maximum(np.diff(starts_S1) - WARM_UP, 0).astype(float)
    return cache_sums(bench, counts_S3, tokens_S)


def cache_sums(bench: Bench, counts_S3: FloatArray, tokens_S: FloatArray) -> Sums:
    """Counts of a cache, by sequence, as sums for measures.py."""
    geometry = bench.study.geometry
    return {
        "active": tokens_S * geometry.num_layers * bench.scored.top_k,
        "hits": counts_S3[:, HITS],
        "bytes": counts_S3[:, LOADS] * geometry.expert_bytes,
        "wasted_bytes": counts_S3[:, WASTED] * geometry.expert_bytes,
        "tokens": tokens_S,
    }
