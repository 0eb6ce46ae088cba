"""Predictors and other forecasters, scored by one rule on held-out sequences.

Every token is a step of its own, in the trace's order. The forecast of a layer is the one that stands just before the
layer's router runs: it knows the layers before it in this token, and all of the tokens before. All begin from the part
that was learned from, and those that learn online go on with it.

Shapes: T tokens, L layers, K top-k, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..forecast.fed import Replayed, needs_of
from ..forecast.score import forecasts
from ..geometry import MoEGeometry
from ..plugins import plugin
from ..traces.split import tokens
from ..traces.trace import RoutingTrace
from ..types import FloatArray
from .learned import Learned
from .parts import parts, trace_digest
from .scores import Scores
from .store import Stored, compact_of, load

BESIDE = ("ewma", "transition")
CHUNK = 256  # tokens scored at once
Progress = Callable[[int, int], None]


def evaluate(
    path: str | Path,
    trace: RoutingTrace,
    *,
    max_tokens: int | None = None,
    beside: Sequence[str] = BESIDE,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """The predictor of a file and other forecasters on the held-out part of a trace: figures by forecaster.

    The trace is split as it was for training. Raises InputError for a trace of another shape, or without the hidden
    states that the predictor needs.
    """
    stored = load(path)
    require_fitting(stored.meta, trace)
    divided = parts(trace, stored.meta["fit_sequences"])
    held_out = tokens(divided.held_out, slice(0, max_tokens))
    total, rows = held_out.num_tokens * (1 + len(beside)), []
    for i, name in enumerate(("learned", *beside)):
        before = i * held_out.num_tokens
        shown = _counting(progress, before, total)
        figures = scored(path, stored, name, divided.fit, held_out, shown)
        rows.append({"forecaster": name, **figures})
    return {
        "architecture": stored.meta["architecture"],
        "protocol": stored.meta["protocol"],
        "same_trace": trace_digest(trace) == stored.meta["trace"],
        "split_by": divided.by,
        "rows": rows,
    }


def scored(
    path: str | Path, stored: Stored, name: str, fit: RoutingTrace, held_out: RoutingTrace, progress: Progress
) -> dict[str, Any]:
    """Figures of one forecaster; "learned" is the stored predictor, of either architecture."""
    if name == "learned" and stored.meta["architecture"] == "published":
        from .published_scoring import published_forecasts

        said = published_forecasts(stored, held_out)
    else:
        found = plugin("hetsched.forecasters", name) if name != "learned" else None
        forecaster: Any = Learned(compact_of(path, stored)) if found is None else found()
        said = forecasts_of(forecaster, fit, held_out)
    scores, done = Scores(held_out.num_layers, held_out.num_experts), 0
    for p_TLE in said:
        scores.add(p_TLE, held_out.experts_TLK[done : done + len(p_TLE)])
        done += len(p_TLE)
        progress(done, held_out.num_tokens)
    return scores.figures()


def forecasts_of(forecaster: Any, fit: RoutingTrace, held_out: RoutingTrace) -> Iterator[FloatArray]:
    """What a Forecaster says of each layer before its router runs: float arrays [some tokens, L, E], in order."""
    forecaster.start(shape_of(held_out), None, fit)
    known = Replayed(replace(held_out, step_T=None), foresees=False).only(needs_of(forecaster))
    return forecasts(forecaster, held_out, known, CHUNK, np.float64)


def shape_of(trace: RoutingTrace) -> MoEGeometry:
    """What a forecaster needs to know of the model that a trace was recorded on."""
    name = str(trace.meta.get("model", "the trace's model"))
    return MoEGeometry(name, trace.num_layers, trace.num_experts, trace.top_k, hidden=trace.width or 1, ffn=1)


def require_fitting(meta: dict[str, Any], trace: RoutingTrace) -> None:
    """Raise InputError unless the trace is of the predictor's shape and has the hidden states that it needs."""
    ours = meta["layers"], meta["num_experts"], meta["top_k"]
    theirs = trace.num_layers, trace.num_experts, trace.top_k
    if ours != theirs:
        text = "{} layers, {} of {} experts"
        told = (text.format(layers, k, experts) for layers, experts, k in (ours, theirs))
        raise InputError(f"the predictor is of {next(told)}, the trace of {next(told)}; give a trace of its model")
    if meta["hidden"] and meta["hidden"] != trace.width:
        had = f"has hidden states of {trace.width}" if trace.width else "has none"
        raise InputError(
            f"the predictor needs hidden states of {meta['hidden']} numbers, and the trace {had}; record it with "
            "'hetsched trace record --hidden'"
        )


def _counting(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)
