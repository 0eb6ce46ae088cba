"""Plot of a contest of dispatch solvers: quality against time, a mark for each strategy, named in a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetsched.dispatch.contest import Row
from hetsched.report.figures import save_figure

MARKS = "osD^vP*X"


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Draw into a file. Raises InputError where that cannot be written."""
    save_figure(draw_rows(rows), path)


def draw_rows(rows: Sequence[Row]) -> Any:
    """A point for each strategy; the legend lists them fastest first, outside the axes, where nothing overlaps."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for i, row in enumerate(sorted(rows, key=lambda row: row.median_s)):
        spot = row.median_s * 1e6, 100 * (row.mean_ratio - 1)
        colour, mark = colours[i % len(colours)], MARKS[i % len(MARKS)]
        axes.plot(*spot, mark, ms=8, color=colour, label=row.solver, clip_on=False, zorder=3)
    axes.set(xscale="log", xlabel="median time of a call, µs", ylabel="above the optimum, % of makespan")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=-0.002)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, title="fastest first")
    return figure
