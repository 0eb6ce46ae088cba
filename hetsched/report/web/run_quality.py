"""Figures of a run without time on an axis: predictions against measurements, and who lay where."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...types import BoolArray, FloatArray
from .drawing import BLUE, FONT, ORANGE, SOFT, band, heat, legend, panel, shade_bar, stairs
from .page import Figure
from .run_residency import asked, residency
from .run_series import MOST_BINS, predicted_and_measured

if TYPE_CHECKING:
    from ...runlog import RunLog

MOST_DOTS = 500
WIDE = 64  # experts, from which maps stand one beneath the other


def predictions(log: RunLog) -> list[Figure]:
    """Predicted against measured seconds, layer by layer and over the run; none where nothing was predicted."""
    predicted_N, measured_N, prefill_N = predicted_and_measured(log)
    if not len(predicted_N):
        return []
    ratio_N, origin = measured_N / predicted_N, log.header.clock
    low, middle, high = np.percentile(ratio_N, [10, 50, 90])
    came = f"In {len(ratio_N):,} layers it took {middle:.2f} times as long as predicted (median; 10th to 90th percentile "
    came += f"{low:.2f} to {high:.2f})."
    chosen = np.unique(np.linspace(0, len(ratio_N) - 1, min(MOST_DOTS, len(ratio_N))).astype(int))
    shown = "Every layer is drawn" if len(chosen) == len(ratio_N) else f"{len(chosen)} layers, evenly spread, are drawn"
    return [
        Figure(
            "predicted", f"Predicted against {_took(origin)}", origin,
            f"{came} {shown}; on the line, the prediction was right.",
            f"Predicted against {_took(origin)} seconds of layers. {came}",
            partial(_draw_dots, predicted_N[chosen], measured_N[chosen], prefill_N[chosen], _took(origin)),
        ),
        Figure(
            "error", f"{_took(origin).capitalize()} over predicted", origin,
            f"Median, and the band of 80% of layers, along the run; 1 is right. {came}",
            f"Ratio of {_took(origin)} to predicted seconds along the run. {came}",
            partial(_draw_error, ratio_N),
        ),
    ]  # fmt: skip


def maps(log: RunLog) -> list[Figure]:
    """What was asked for, and what lay on the GPU in spans of the run; the latter only where there were slots."""
    asked_LE, origin = asked(log), log.header.clock
    most = _round_up(float(np.percentile(asked_LE, 99)))
    made = [
        Figure(
            "asked", "Experts asked for", origin,
            "Share of a layer's tokens that chose each expert, prefill included; the brightest shade is everything above.",
            f"Map of {asked_LE.shape[0]} layers by {asked_LE.shape[1]} experts: how often each was chosen, at most "
            f"{asked_LE.max():.0%} of the tokens.",
            partial(_draw_asked, asked_LE, most),
        )
    ]  # fmt: skip
    if log.header.slots <= 0:
        return made
    share_PLE, spans = residency(log)
    made.append(Figure(
        "residency", "Experts on the GPU over time", origin,
        "Share of the steps of each span in which an expert had a place on the GPU, copies under way included.",
        f"{len(spans)} maps of layers by experts, from step {spans[0][0]} to {spans[-1][1]}: "
        f"{share_PLE[0].mean():.0%} of all experts were on the GPU in the first, {share_PLE[-1].mean():.0%} in the last, "
        f"{np.abs(share_PLE[-1] - share_PLE[0]).mean() / 2:.0%} of places have changed hands between them.",
        partial(_draw_residency, share_PLE, spans),
    ))  # fmt: skip
    return made


def _took(clock: str) -> str:
    return "measured" if clock == "measured" else clock


def _draw_dots(predicted_N: FloatArray, measured_N: FloatArray, prefill_N: BoolArray, took: str) -> Any:
    figure, axes = panel(2.8)
    least, most = min(predicted_N.min(), measured_N.min()) / 1.2, max(predicted_N.max(), measured_N.max()) * 1.2
    axes.plot([1e3 * least, 1e3 * most], [1e3 * least, 1e3 * most], color=SOFT, lw=1, ls="--")
    for name, chosen, colour, mark in (("decode", ~prefill_N, BLUE, "o"), ("prefill", prefill_N, ORANGE, "^")):
        if chosen.any():
            x, y = 1e3 * predicted_N[chosen], 1e3 * measured_N[chosen]
            axes.plot(x, y, mark, ms=3, mew=0, alpha=0.55, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="predicted, ms a layer", ylabel=f"{took}, ms a layer")
    axes.set(xlim=(1e3 * least, 1e3 * most), ylim=(1e3 * least, 1e3 * most))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
    axes.tick_params(which="minor", length=0)
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
    axes.set(xlim=(0, 100), xlabel="% of the run's layers", ylabel="ratio", ylim=(0, max(2.0, 1.1 * float(high_B.max()))))
    legend(axes)
    return figure


def _draw_asked(asked_LE: FloatArray, most: float) -> Any:
    figure, axes = panel(2.6)
    image = heat(axes, asked_LE, most)
    axes.set(xlabel="expert", ylabel="layer")
    shade_bar(figure, image, axes, "of the layer's tokens", [0, most / 2, most])
    return figure


def _draw_residency(share_PLE: FloatArray, spans: list[tuple[int, int]]) -> Any:
    columns = 1 if share_PLE.shape[2] >= WIDE or len(spans) == 1 else 2
    rows = -(-len(spans) // columns)
    figure, grid = panel(0.9 + 1.15 * rows, rows, columns, sharex=True, sharey=True)
    flat = list(np.atleast_1d(grid).flat)
    for axes, share_LE, (first, last) in zip(flat, share_PLE, spans, strict=False):
        image = heat(axes, share_LE, 1.0)
        axes.set_title(f"step {first:,} to {last:,}" if last > first else f"step {first:,}", fontsize=FONT, loc="left", color=SOFT)
    for axes in flat[len(spans) :]:
        axes.set_visible(False)
    figure.supxlabel("expert", fontsize=FONT, color=SOFT)
    figure.supylabel("layer", fontsize=FONT, color=SOFT)
    shade_bar(figure, image, flat, "of the span's steps", [0, 0.5, 1])
    return figure


def _round_up(share: float) -> float:
    return next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if share <= step), 1.0)
