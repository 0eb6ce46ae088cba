"""Picture of the engine's own time: one bar a row, its parts in the order of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetsched.report.bench_view import MICRO, name
from hetsched.report.figures import check_format, save_figure


def plot_overhead(document: dict[str, Any], path: Path) -> None:
    """Draw a document of `hetsched bench --engine-overhead`. Raises InputError where it cannot be written."""
    check_format(path)
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows, labels = document["rows"], list(document["meaning"])
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    figure = Figure(figsize=(9, 2.6 + 0.7 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [name(row) for row in rows]
    ends = [0.0] * len(rows)
    for label, colour in zip(labels, colours, strict=False):
        widths = [MICRO * max(0.0, row["breakdown_s"][label]) for row in rows]
        axes.barh(names, widths, left=ends, color=colour, label=label, height=0.6)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    target_s = document["targets"]["layer_overhead_s"]
    axes.axvline(MICRO * target_s, color="0.2", lw=1, ls="--", label=f"target {MICRO * target_s:.0f} µs")
    axes.invert_yaxis()
    axes.set(xlabel="µs of processor time a layer, beyond kernels, copies and decisions")
    axes.set_title("The engine's own time at decode, on emulated machines", fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.4, -0.28))
    save_figure(figure, path, dpi=150)
