"""A trace's figures as tables for a terminal, and as a JSON document."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from hetsched.report.steering_view import steered_words
from hetsched.report.tables import Page, Sheet, figures
from hetsched.traces.summary import FRACTIONS, TraceSummary
from hetsched.traces.verified import Drafting

SCHEMA = "hetsched-trace-info/1"


def trace_view(name: str, summary: TraceSummary) -> Page:
    """What the file holds, the layers, and the caches."""
    return Page(*_facts(name, summary), "", _layers(summary), "", *_caches(summary))


def _facts(name: str, s: TraceSummary) -> list[str]:
    low, middle, high = s.sequence_tokens
    phases = ", ".join(f"{count:,} {phase}" for phase, count in s.phases.items())
    steps = "" if s.steps is None else f" in {s.steps:,} steps"
    lines = [
        f"{name}: {s.meta.get('model', 'model not named')}, {s.layers} layers, {s.top_k} of {s.experts} experts",
        f"{s.tokens:,} tokens{steps}: {phases}; {'with' if s.has_weights else 'without'} router weights",
        f"{s.sequences:,} sequences of {low:,} to {high:,} tokens, median {middle:,}",
    ]
    if s.drafting is not None:
        lines.append(speculation_words(s.drafting, s.meta))
    if words := steered_words(s.meta.get("steered")):
        lines.append(f"LOSSY: the model was {words}")
    if s.sampled_tokens < s.tokens:
        lines.append(
            f"sampled: figures below are of {s.sampled_tokens:,} tokens, in evenly spaced runs of consecutive ones"
        )
    return lines


def speculation_words(drafting: Drafting, meta: dict[str, Any]) -> str:
    """What was drafted and what of it stayed, and whether a real draft made it or a stated acceptance."""
    accepted, mean_k, go_share = drafting
    said = f"speculation: {mean_k:.2f} drafts a step, {accepted:.0%} accepted; {go_share:.0%} of steps have drafts"
    return f"{said} (derived with a stated acceptance, not recorded)" if "speculated" in meta else said


def _layers(s: TraceSummary) -> Sheet:
    headings = ("layer", "entropy, bits", f"of {s.max_entropy_bits:.2f}", "P(repeat)", "if independent", "ratio")
    table = Sheet(*figures(*headings, drop=("if independent", headings[2], "ratio")))
    names = s.meta.get("layers")
    named = names if isinstance(names, list) else list(range(s.layers))
    for i, number in enumerate(named):
        table.add(str(number), *_layer_cells(s, s.entropy_bits_L[i], s.repeat_L[i], s.independent_L[i]))
    means = s.entropy_bits_L.mean(), s.repeat_L.mean(), s.independent_L.mean()
    table.add("mean", *_layer_cells(s, *means), style="bold")
    return table


def _layer_cells(s: TraceSummary, entropy_bits: float, repeat: float, independent: float) -> list[str]:
    of_max = entropy_bits / s.max_entropy_bits if s.experts > 1 else 1.0
    ratio = f"{repeat / independent:.2f}" if independent else ""
    return [f"{entropy_bits:.2f}", f"{of_max:.0%}", f"{repeat:.3f}", f"{independent:.3f}", ratio]


def _caches(s: TraceSummary) -> list[RenderableType]:
    quantiles = ", ".join(f"{q:.0%} {'first use' if n is None else n}" for q, n in s.reuse.items())
    total = s.layers * s.experts
    table = Sheet(*figures("capacity", "experts", "LRU", "LFU"))
    for fraction in FRACTIONS:
        hits = [f"{s.hits(curve, fraction):.1%}" for curve in (s.lru_D1, s.lfu_D1)]
        table.add(f"{fraction:.0%}", f"{int(fraction * total):,}", *hits)
    return [
        f"Hit rate of one cache for the {total:,} experts of all layers, without prefetch",
        table,
        f"Reuse distance, in experts asked for in between, quantiles: {quantiles}",
        f"First uses: {s.first_use_share:.2%} of requests",
    ]


def trace_document(name: str, s: TraceSummary) -> dict[str, Any]:
    """The JSON document of `hetsched trace info`."""
    return {
        "schema": SCHEMA,
        "file": name,
        "problems": [],
        "meta": s.meta,
        "tokens": s.tokens,
        "sequences": s.sequences,
        "sequence_tokens": dict(zip(("least", "median", "most"), s.sequence_tokens, strict=True)),
        "layers": s.layers,
        "num_experts": s.experts,
        "top_k": s.top_k,
        "weights": s.has_weights,
        "steps": s.steps,
        "phases": s.phases,
        "speculation": None if s.drafting is None else s.drafting._asdict(),
        "sampled_tokens": s.sampled_tokens,
        "max_entropy_bits": s.max_entropy_bits,
        "entropy_bits": s.entropy_bits_L.tolist(),
        "repeat": s.repeat_L.tolist(),
        "repeat_if_independent": s.independent_L.tolist(),
        "first_use_share": s.first_use_share,
        "reuse_distance_experts": {str(q): distance for q, distance in s.reuse.items()},
        "hit_rate": [{"gpu_fraction": f, "lru": s.hits(s.lru_D1, f), "lfu": s.hits(s.lfu_D1, f)} for f in FRACTIONS],
    }
