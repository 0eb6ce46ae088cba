"""Plot of the experts that tell two sets of prompts apart: a map of layers and experts, and bars of the strongest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetsched.report.figures import save_figure
from hetsched.report.steering_view import Analysis

A_COLOUR, B_COLOUR = "#b2182b", "#2166ac"  # the ends of the map's colours
MOST_BARS = 30


def plot_analysis(analysis: Analysis, path: Path) -> None:
    """Draw into a file. Raises InputError where that cannot be written."""
    save_figure(draw_analysis(analysis), path)


def draw_analysis(analysis: Analysis) -> Any:
    """The map on the left; on the right the strongest differences with their standard errors, the largest on top."""
    from matplotlib.figure import Figure

    bars = analysis.found.ranked()[: min(analysis.top, MOST_BARS)]
    figure = Figure(figsize=(12, max(5.0, 1.5 + 0.22 * len(bars))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_map(figure, left, analysis)
    _draw_bars(right, analysis, bars)
    name_a, name_b = analysis.names
    figure.suptitle(f"{analysis.steering.model}: experts chosen by A = {name_a} against B = {name_b}")
    return figure


def _draw_map(figure: Any, axes: Any, analysis: Analysis) -> None:
    risk_LE = 100 * analysis.found.risk_LE
    most = max(float(np.abs(risk_LE).max()), 1e-9)
    image = axes.imshow(risk_LE, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of A's tokens less share of B's, points")
    axes.set(xlabel="expert", ylabel="MoE layer", title="Risk difference")


def _draw_bars(axes: Any, analysis: Analysis, bars: list[tuple[int, int]]) -> None:
    found = analysis.found
    risks = [100 * found.risk_LE[pair] for pair in bars]
    errors = [100 * found.error_LE[pair] for pair in bars]
    colours = [A_COLOUR if risk > 0 else B_COLOUR for risk in risks]
    axes.barh(range(len(bars)), risks, xerr=errors, color=colours, ecolor="0.3", capsize=2)
    axes.set_yticks(range(len(bars)), [f"layer {layer}, expert {expert}" for layer, expert in bars])
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.axvline(0, color="0.3", lw=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="points, ± standard error between prompts", title="Strongest differences")
