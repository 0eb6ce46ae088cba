"""caching-study: the questions of arXiv 2511.05814, asked of any trace.

LRU against LFU, one cache for all layers against one for each, from 5 to 75 % of the experts, with and without
speculative prefetch of the next layer's experts, and how right that speculation is. The paper speculates with the next
layer's router on the present hidden state: gate-ahead, where the trace has hidden states. For a trace of expert ids a
forecaster that saw the layers before stands in for it, and its rows say so.

Shapes: S sequences, T tokens, L layers, E experts, D = L * E experts of all layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..forecast import traits
from ..replay.opened import Bench
from ..traces.split import sequence_starts
from ..traces.summary import TraceSummary, summarise
from .cache import new_cache, serve
from .forecasters import Named
from .foresight import Foresight, Progress, foresee
from .imbalance import imbalance
from .measures import Sums, number, ratio
from .published import cache_sums
from .result import Row

FRACTIONS = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75)
FORECASTER = "transition"
CACHES = {
    "lru": {"by_use": False, "per_layer": False},
    "lfu": {"by_use": True, "per_layer": False},
    "lru-per-layer": {"by_use": False, "per_layer": True},
    "lfu-per-layer": {"by_use": True, "per_layer": True},
}
STAND_IN = "from expert ids, in place of the next layer's router on the present hidden state"
NOTES = (
    "caches without time: a copy is there at once; the cache begins empty and is carried over between sequences",
    "speculation inserts as many experts as top-k before each layer is counted, the first one too",
)


def caching_study(
    bench: Bench, forecasters: Sequence[Named], fractions: Sequence[float], progress: Progress, distance: int = 1
) -> Iterator[tuple[Row, Foresight | None]]:
    """Rows by cache, share of the experts and speculation, without first. Needs steps of one token."""
    seen: dict[str | None, Foresight | None] = {None: None}
    stands_in: dict[str | None, str] = {
        named.label: "" if "gates" in traits(named.forecaster()).needs else STAND_IN for named in forecasters
    }
    parts, done = 2 * len(forecasters) + 1, 0

    def part(count: int, of: int) -> None:
        progress(done * of + count, parts * of)

    for named in forecasters:
        seen[named.label] = foresee(named.fed(bench), bench, bench.scored.top_k, distance=distance, progress=part)
        done += 1
    for label, foresight in seen.items():
        for i, strategy in enumerate(CACHES):
            for fraction in fractions:
                said = [] if foresight is None else [foresight.sums_S]
                counted = cached(bench, strategy, fraction, foresight)
                yield Row.of(label, strategy, fraction, *said, counted, stand_in=stands_in.get(label, "")), foresight
            part(i + 1, len(CACHES))
        done += 1


def cached(bench: Bench, strategy: str, fraction: float, foresight: Foresight | None) -> Sums:
    """Hits and bytes of each sequence in one of CACHES."""
    trace, starts_S1 = bench.scored, sequence_starts(bench.scored)
    layers, experts = trace.num_layers, trace.num_experts
    cache = new_cache(layers, experts, int(fraction * layers * experts), **CACHES[strategy])
    none_TL0 = np.zeros((trace.num_tokens, layers, 0), np.int16)
    counts_T3 = serve(cache, experts, trace.experts_TLK, none_TL0 if foresight is None else foresight.guesses_TLG)
    counts_S3 = np.add.reduceat(counts_T3, starts_S1[:-1], axis=0).astype(float)
    return cache_sums(bench, counts_S3, np.diff(starts_S1).astype(float))


def tables(bench: Bench, speculation: dict[str, Foresight]) -> dict[str, Any]:
    """The study's tables beside its rows: speculation by layer, imbalance and locality."""
    summary = summarise(bench.scored)
    by_layer = {
        label: [number(share) for share in ratio(seen.right_L.astype(float), seen.asked_L.astype(float))]
        for label, seen in speculation.items()
    }
    return {
        "speculation_recall_by_layer": by_layer,
        "imbalance": imbalance(summary.counts_LE),
        "locality": locality(summary),
    }


def locality(summary: TraceSummary) -> dict[str, Any]:
    """How often the next token uses an expert again, and how many experts are asked for between two uses."""
    return {
        "repeat": summary.repeat_L.tolist(),
        "repeat_if_independent": summary.independent_L.tolist(),
        "reuse_distance_experts": {str(quantile): distance for quantile, distance in summary.reuse.items()},
        "first_use_share": summary.first_use_share,
        "meaning": {
            "repeat": "by layer, P(expert chosen by the next token of a sequence | chosen by this one)",
            "repeat_if_independent": "the same if tokens chose independently with the layer's shares",
            "reuse_distance_experts": "quantiles of the different experts, of all layers, between two uses of one; "
            "null: never used before",
        },
    }
