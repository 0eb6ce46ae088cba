"""Picture of the engine's own time: one bar a row, its parts in the order of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetsched.errors import InputError
from hetsched.report.bench_view import MICRO, name

FORMATS = (".png", ".svg", ".pdf")


def require_drawable(path: Path) -> None:
    """Raises InputError for a format that is not drawn, or a folder that is not there."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw {path.name!r}; give a file that ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {path.parent}; create it first")


def plot_overhead(document: dict[str, Any], path: Path) -> None:
    """Draw a document of `hetsched bench --overhead` into a file. Raises InputError where that cannot be written."""
    require_drawable(path)
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
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"--plot {path}: {error.strerror}; name a file that can be written") from error
