"""How pictures of pages look: one column of a phone wide, colours that the colour-blind tell apart, light and dark.

Colours are the hues of the other plots: green the GPU, blue the CPU, red the link. No colour stands alone: marks and
lines differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...types import FloatArray

INK, SOFT, GRID = "#1b1f24", "#57606a", "#d8dee4"
GREEN, BLUE, RED, ORANGE, PURPLE, SKY = "#009e73", "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#56b4e9"  # Okabe, Ito
SHADES = {  # viridis from 0 to 0.75, and from 0.5 to 1 for dark screens
    "#440154": "#21918c",
    "#46307e": "#28ae80",
    "#365c8d": "#4ac16d",
    "#23898e": "#7ad151",
    "#28ae81": "#bddf26",
    "#5ec962": "#fde725",
}
DARK = {
    **SHADES,
    INK: "#e6e9ed",
    SOFT: "#9aa4af",
    GRID: "#2b323b",
    GREEN: "#2fc89b",
    BLUE: "#4fa9e6",
    RED: "#ff8f4a",
    ORANGE: "#f2b632",
    PURPLE: "#e3a3c8",
    SKY: "#b9e2fb",
}
LINES = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
MARKS = "osD^vP*X"  # as in `compare --plot`
LANES = {"GPU": (GREEN, "-"), "CPU": (BLUE, "--"), "link": (RED, ":")}
WIDTH = 3.6  # inches
FONT = 8.5  # points
LEGEND_WIDTH = 228.0  # points
MOST_LETTERS = 40  # of names in a picture
LEVELS = 8  # shades of a heat map
ROW, HEAD = 0.34, 0.62  # inches of a strategy, and of the rest of its picture


def panel(height: float = 2.15, width: float = WIDTH) -> tuple[Any, Any]:
    """A figure of one column's width, unless told otherwise, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.02, h_pad=0.02)
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    axes.tick_params(colors=SOFT, labelsize=FONT, length=2.5, color=GRID)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=SOFT, fontsize=FONT)
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)


def legend(axes: Any) -> None:
    """Names above the picture, in its own ink, in as many columns as there is room for."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = next((n for n in range(len(labels), 1, -1) if _columns_wide(labels, n) <= LEGEND_WIDTH), 1)
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False, fontsize=FONT,
        labelcolor=INK, handlelength=1.6, columnspacing=1.0, handletextpad=0.4, borderaxespad=0.1,
    )  # fmt: skip


def readable(text: str, most: int | None = None) -> str:
    """A text from outside without what no page can hold, as NUL, or what would turn it round; cut at `most` letters."""
    safe = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    return safe if most is None or len(safe) <= most else f"{safe[: most - 1]}…"


def _columns_wide(labels: Sequence[str], columns: int) -> float:
    """Points that a legend takes in so many columns, with marks and gaps."""
    from matplotlib.textpath import TextPath

    wide = [TextPath((0, 0), name, size=FONT).get_extents().width if name.strip() else 0.0 for name in labels]
    return float(sum(max(part) + 3.2 * FONT for part in np.array_split(wide, columns)))


def stairs(
    axes: Any, edges_s: FloatArray, height_B: FloatArray, colour: str, style: str = "-", label: str = ""
) -> None:
    """A step line over bins from edges_s[:, 0] to edges_s[:, 1]; a gap where a bin does not begin at another's end."""
    x, y = _joined(edges_s, height_B)
    axes.plot(x, y, style, color=colour, lw=1.5, label=label or "_", solid_joinstyle="miter")


def band(axes: Any, edges_s: FloatArray, low_B: FloatArray, high_B: FloatArray, colour: str, label: str) -> None:
    """A filled band over bins."""
    x, low = _joined(edges_s, low_B)
    _, high = _joined(edges_s, high_B)
    axes.fill_between(x, low, high, color=colour, alpha=0.25, lw=0, label=label)


def layers_of(axes: Any, edges_s: FloatArray, parts: Sequence[tuple[str, FloatArray, str]]) -> None:
    """Bands of (name, height, colour) one upon the other, over bins."""
    below_B = np.zeros(len(edges_s))
    for name, height_B, colour in parts:
        x, low = _joined(edges_s, below_B)
        below_B = below_B + height_B
        _, high = _joined(edges_s, below_B)
        axes.fill_between(x, low, high, color=colour, alpha=0.85, lw=0, label=name)


def _joined(edges_s: FloatArray, value_B: FloatArray) -> tuple[FloatArray, FloatArray]:
    x, y = [], []
    for i, ((begin_s, end_s), value) in enumerate(zip(edges_s, value_B, strict=True)):
        if i and begin_s - edges_s[i - 1, 1] > 0.5 * (end_s - begin_s):
            x.append(begin_s)
            y.append(np.nan)
        x += [begin_s, end_s]
        y += [value, value]
    return np.array(x, float), np.array(y, float)


def heat(axes: Any, value_LE: FloatArray, most: float) -> None:
    """A map of layers by experts, in the shades of shade_bar()."""
    layers, experts = value_LE.shape
    extent = (-0.5, experts - 0.5, layers - 0.5, -0.5)
    axes.imshow(value_LE, **_shading(most), aspect="auto", interpolation="none", extent=extent)
    axes.grid(False)
    for which, count in ((axes.xaxis, experts), (axes.yaxis, layers)):
        which.set_ticks(_whole_ticks(count))


def shade_bar(figure: Any, most: float, label: str, **place: Any) -> None:
    """What the shades of a map mean. `place`: `ax`, which it stands beneath, or `cax`, which it is."""
    from matplotlib.cm import ScalarMappable

    ticks = [0.0, most / 2, most]
    bar = figure.colorbar(ScalarMappable(**_shading(most)), orientation="horizontal", ticks=ticks, **place)
    bar.ax.set_xticklabels([f"{100 * tick:.3g}%" for tick in ticks])
    bar.set_label(label, fontsize=FONT, color=SOFT)
    bar.ax.tick_params(labelsize=FONT, colors=SOFT, length=2)
    bar.outline.set_visible(False)
    bar.solids.set_edgecolor("face")


def _shading(most: float) -> dict[str, Any]:
    """A few shades of cividis, which the colour-blind see as others do, from 0 to `most`."""
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    levels = np.linspace(0, most, LEVELS + 1)
    return {"cmap": colormaps["cividis"].resampled(LEVELS), "norm": BoundaryNorm(levels, LEVELS, clip=True)}


def _whole_ticks(count: int) -> list[int]:
    steps = [step for step in (1, 2, 5, 8, 10, 16, 20, 32, 64, 128, 256) if count / step <= 5] or [max(count // 4, 1)]
    return list(range(0, count, steps[0]))


def whole_numbers() -> Any:
    """Where ticks stand on an axis of layers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=True)


def log_ticks(axes: Any) -> None:
    """Plain numbers at 1, 2 and 5 of each power of ten, on both axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)


def rows_panel(names: Sequence[str]) -> tuple[Any, Any]:
    """A picture of one row a name, the name written above its line: long names need no margin."""
    figure, axes = panel(HEAD + ROW * len(names))
    axes.set(ylim=(-len(names) + 0.45, 0.75), yticks=[-i for i in range(len(names))], yticklabels=[""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    for i, name in enumerate(names):
        text = readable(name, MOST_LETTERS)
        axes.text(0.0, -i + 0.14, text, transform=axes.get_yaxis_transform(), fontsize=FONT - 1, color=INK, va="bottom")
    return figure, axes


def shades(count: int) -> list[str]:
    """Colours of an ordered few, dark to light, as in `compare --plot`; beyond six they come again, marks do not."""
    order = list(SHADES)
    return [
        order[round(i * (len(order) - 1) / max(count - 1, 1)) if count <= len(order) else i % 6] for i in range(count)
    ]
