"""Figures of a run without time on an axis: predictions against measurements, and who lay where."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...types import BoolArray, FloatArray
from .drawing import (
    BLUE,
    FONT,
    GREEN,
    INK,
    ORANGE,
    SKY,
    SOFT,
    band,
    heat,
    legend,
    log_ticks,
    panel,
    shade_bar,
    stairs,
    whole_numbers,
)
from .page import Figure
from .run_residency import asked, hits_by_layer, residency
from .run_series import MOST_BINS, predicted_and_measured

if TYPE_CHECKING:
    from ...runlog import RunLog

MOST_DOTS = 500
LARGE = 64  # experts, from which a map is as wide as other figures


def predictions(log: RunLog) -> tuple[list[Figure], list[Figure]]:
    """Predicted against measured seconds, over the run and layer by layer; none where nothing was predicted."""
    predicted_N, measured_N, prefill_N = predicted_and_measured(log)
    if not len(predicted_N):
        return [], []
    ratio_N, origin = measured_N / predicted_N, log.header.clock
    low, middle, high = np.percentile(ratio_N, [10, 50, 90])
    came = (
        f"In {len(ratio_N):,} layers it took {middle:.2f} times as long as predicted (median; 10th to 90th percentile "
    )
    came += f"{low:.2f} to {high:.2f})."
    chosen = np.unique(np.linspace(0, len(ratio_N) - 1, min(MOST_DOTS, len(ratio_N))).astype(int))
    shown = "Every layer is drawn" if len(chosen) == len(ratio_N) else f"{len(chosen)} layers, evenly spread, are drawn"
    dots = Figure(
        "predicted", f"Predicted against {origin}", origin,
        f"{came} {shown}; on the line, the prediction was right.",
        f"Predicted against {origin} seconds of layers. {came}",
        partial(_draw_dots, predicted_N[chosen], measured_N[chosen], prefill_N[chosen], origin),
    )  # fmt: skip
    along = Figure(
        "error", f"{origin.capitalize()} over predicted", origin,
        "A layer's seconds over those that the cost model expected, along the run; 1 is right.",
        f"Ratio of {origin} to predicted seconds along the run. {came}",
        partial(_draw_error, ratio_N),
    )  # fmt: skip
    return [along], [dots]


def maps(log: RunLog) -> list[Figure]:
    """What was asked for, and, where there were slots, what lay on the GPU, by layer and in spans of the run."""
    return [_asked(log), *([_hits(log), _residency(log)] if log.header.slots > 0 else [])]


def _asked(log: RunLog) -> Figure:
    asked_LE = asked(log)
    layers, experts = asked_LE.shape
    most = _round_up(float(np.percentile(asked_LE, 99)))
    caption = "Share of a layer's tokens that chose each expert; the brightest shade is everything above."
    alt = f"Map of {layers} layers by {experts} experts: each one's share of tokens, at most {asked_LE.max():.0%}."
    return Figure("asked", "Experts asked for", log.header.clock, caption, alt, partial(_draw_asked, asked_LE, most))


def _hits(log: RunLog) -> Figure:
    hit_L, in_time_L = hits_by_layer(log)
    caption = "Active experts that lay on the GPU, whole, when asked for; beside them, those whose copy was waited for."
    alt = f"Hit rate of each layer: from {hit_L.min():.0%} to {hit_L.max():.0%}."
    draw = partial(_draw_hits, hit_L, in_time_L)
    return Figure("layers", "Hit rate by layer", log.header.clock, caption, alt, draw)


def _residency(log: RunLog) -> Figure:
    share_PLE, spans = residency(log)
    first_LE, last_LE = share_PLE[0], share_PLE[-1]
    moved = np.abs(last_LE - first_LE).sum() / 2 / max(float(first_LE.sum()), 1.0)
    caption = "Share of the steps of each span in which an expert had a place on the GPU, copies under way included."
    alt = (
        f"{len(spans)} maps of layers by experts, from step {spans[0][0]} to {spans[-1][1]}: {first_LE.mean():.0%} of "
    )
    alt += (
        f"experts were on the GPU in the first, {last_LE.mean():.0%} in the last, and {moved:.0%} of them are others."
    )
    size, draw = "large" if share_PLE.shape[2] >= LARGE else "small", partial(_draw_residency, share_PLE, spans)
    return Figure("residency", "Experts on the GPU over time", log.header.clock, caption, alt, draw, size)


def _draw_dots(predicted_N: FloatArray, measured_N: FloatArray, prefill_N: BoolArray, took: str) -> Any:
    figure, axes = panel(2.8)
    least, most = min(predicted_N.min(), measured_N.min()) / 1.2, max(predicted_N.max(), measured_N.max()) * 1.2
    axes.plot([1e3 * least, 1e3 * most], [1e3 * least, 1e3 * most], color=SOFT, lw=1, ls="--")
    for name, chosen, colour, mark in (("decode", ~prefill_N, BLUE, "o"), ("prefill", prefill_N, ORANGE, "^")):
        if chosen.any():
            x, y = 1e3 * predicted_N[chosen], 1e3 * measured_N[chosen]
            axes.plot(x, y, mark, ms=3.6, mew=0, alpha=0.55, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="predicted, ms a layer", ylabel=f"{took}, ms a layer")
    axes.set(xlim=(1e3 * least, 1e3 * most), ylim=(1e3 * least, 1e3 * most))
    log_ticks(axes)
    legend(axes)
    return figure


def _draw_error(ratio_N: FloatArray) -> Any:
    figure, axes = panel()
    parts = np.array_split(ratio_N, min(MOST_BINS, len(ratio_N)))
    low_B, middle_B, high_B = (np.array([np.percentile(part, q) for part in parts]) for q in (10, 50, 90))
    ends = np.cumsum([len(part) for part in parts]) / len(ratio_N) * 100
    edges = np.stack([np.append(0.0, ends[:-1]), ends], axis=1)
    band(axes, edges, low_B, high_B, BLUE, "80% of layers")
    stairs(axes, edges, middle_B, BLUE, label="median")
    axes.axhline(1.0, color=SOFT, lw=1, ls="--")
    axes.set(xlim=(0, 100), xlabel="% of the run's layers", ylabel="ratio")
    axes.set_ylim(0, max(2.0, 1.1 * float(high_B.max())))
    legend(axes)
    return figure


def _draw_asked(asked_LE: FloatArray, most: float) -> Any:
    figure, axes = panel(2.8)
    heat(axes, asked_LE, most)
    axes.set(xlabel="expert", ylabel="layer")
    shade_bar(figure, most, "of the layer's tokens", ax=axes, shrink=0.9, aspect=36, pad=0.02)
    return figure


def _draw_hits(hit_L: FloatArray, runs_L: FloatArray) -> Any:
    """Layers from top to bottom, as in the maps."""
    figure, axes = panel(2.8)
    layers = np.arange(len(hit_L))
    axes.barh(layers, 100 * hit_L, height=0.8, color=GREEN, label="hits")
    axes.barh(layers, 100 * (runs_L - hit_L), left=100 * hit_L, height=0.8, color=SKY, label="waited for")
    axes.set(xlim=(0, 100), ylim=(len(hit_L) - 0.5, -0.5), xlabel="% of active experts", ylabel="layer")
    axes.yaxis.set_major_locator(whole_numbers())
    axes.grid(visible=False, axis="y")
    legend(axes)
    return figure


def _draw_residency(share_PLE: FloatArray, spans: list[tuple[int, int]]) -> list[Any]:
    """A picture a span, and one of the shades."""
    is_large, made = share_PLE.shape[2] >= LARGE, []
    for share_LE, (first, last) in zip(share_PLE, spans, strict=True):
        figure, axes = panel(1.9) if is_large else panel(1.7, 1.9)
        heat(axes, share_LE, 1.0)
        name = f"steps {first:,} to {last:,}" if last > first else f"step {first:,}"
        axes.set_title(name, fontsize=FONT, loc="left", color=INK)
        axes.set(xlabel="expert", ylabel="layer")
        made.append(figure)
    figure, axes = panel(0.5)
    shade_bar(figure, 1.0, "of the span's steps", cax=axes)
    return [*made, figure]


def _round_up(share: float) -> float:
    return next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if share <= step), 1.0)
