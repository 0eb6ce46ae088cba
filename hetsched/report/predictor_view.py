"""A predictor's metadata and scores as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import Column, Page, Sheet, figures, notes

SHOWN = ("recall", "precision", "F1", "macro F1", "log score", "calibration error")
_KEYS = ("recall", "precision", "f1_positive", "f1_macro", "log_score", "calibration_error")


def facts(name: str, meta: Mapping[str, Any]) -> Page:
    """What a predictor is and how it was trained."""
    table = Sheet(Column(""), Column("", prose=True), title=name)
    shape = f"{meta['layers']} layers, {meta['top_k']} of {meta['num_experts']} experts"
    told = meta.get("training", {})
    table.add("architecture", f"{meta['architecture']}, {meta['width']} wide")
    table.add("model", f"{meta.get('model') or 'not named'}: {shape}")
    table.add("learns from", f"ids and hidden states of {meta['hidden']} numbers" if meta["hidden"] else "ids")
    table.add("protocol", str(meta["protocol"]))
    table.add("fitted on", f"the first {meta['fit_sequences']:.0%} of the {meta.get('split_by', 'sequences')}")
    table.add("trace", str(meta["trace"]))
    table.add("seed", str(meta["seed"]))
    if told:
        best = f"{told['best_score']:.4f} nats an expert at epoch {told['best_epoch']}"
        table.add("training", f"{told['epochs']:.1f} epochs, {told['steps']:,} steps; best {best}")
    if "held_out" in meta:
        held_out = meta["held_out"]
        table.add("held out", f"recall {held_out['recall']:.1%} in the first {held_out['tokens']:,} tokens")
    if "weights" in meta:
        table.add("weights", f"{meta['weights']:,}")
    if "forecast_s" in meta:
        table.add("a token's forecasts", f"{1e6 * meta['forecast_s']:.0f} µs, measured here")
    one = "the trace had one sequence: its last tokens were held out"
    return Page(table, *notes([one] if meta.get("split_by") == "tokens" else []))


def scores_page(name: str, found: Mapping[str, Any]) -> Page:
    """Forecasters beside each other, and how they were scored."""
    table = Sheet(Column("forecaster"), *figures(*SHOWN, drop=("macro F1", "precision", "F1")))
    for row in found["rows"]:
        shares = [f"{row[key]:.1%}" for key in _KEYS[:4]]
        cells = [*shares, f"{row['log_score']:.2f}", f"{row['calibration_error']:.2%}"]
        table.add(row["forecaster"], *cells, style="bold" if row["forecaster"] == "learned" else "")
    tokens = found["rows"][0]["tokens"]
    said = [f"{tokens:,} held-out tokens, as many guesses as a token asks for; log score: nats a layer, 0 at best"]
    if found["protocol"] == "published":
        said.append("published protocol: the predictor sees the router's own input and later tokens; the others do not")
    if found["split_by"] == "tokens":
        said.append("the trace has one sequence: its last tokens are held out")
    if not found["same_trace"]:
        said.append("not the trace that it was trained on")
    return Page(f"{name}, {found['architecture']}", table, *notes(said))
