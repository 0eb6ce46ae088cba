"""Plots of a comparison: tokens/s by strategy and fraction, against bytes on the GPU; hit rate against bytes moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetsched.errors import InputError
from hetsched.files import make_folder
from hetsched.report.figures import FORMATS, save_figure

if TYPE_CHECKING:
    from hetsched.replay.result import Comparison

GIB, MIB = 2**30, 2**20
MARKS = "osD^vP*X"
LEGEND_WIDTH, LEGEND_LINE = 2.3, 0.19  # inches of a name
MOVED_TICKS = (0, *(step * 10**power for power in range(6) for step in (1, 2, 5)))  # MiB


def plot_comparison(comparison: Comparison, target: Path) -> list[Path]:
    """Draw three files into a folder, or beside each other with a prefix where `target` ends in .png, .svg or .pdf.

    Two at one fraction: see `left_out`.
    """
    drawings: dict[str, Callable[[Comparison], Any]] = {
        "tokens_per_s": draw_tokens,
        "tokens_by_bytes": draw_bytes,
        "hit_rate": draw_hits,
    }
    if not comparison.rows:
        raise InputError("no strategy came to a result, so there is nothing to draw")
    if left_out(comparison):
        del drawings["tokens_by_bytes"]
    as_prefix = target.suffix.lower() in FORMATS
    written = []
    make_folder(target.parent if as_prefix else target)
    for name, draw in drawings.items():
        path = target.with_name(f"{target.stem}-{name}{target.suffix}") if as_prefix else target / f"{name}.png"
        save_figure(draw(comparison), path)
        written.append(path)
    return written


def left_out(comparison: Comparison) -> str:
    """Which picture is not drawn and why, or nothing: a line over memory needs two fractions."""
    if len(_fractions(comparison)) > 1:
        return ""
    return "tokens_by_bytes is left out: it is drawn over GPU memory, for two fractions or more"


def draw_tokens(comparison: Comparison) -> Any:
    """A panel a machine, a line a strategy, a mark a fraction; dashed lines are the clairvoyant bound."""
    order, machines = _by_speed(comparison), _machines(comparison)
    figure, panels = _grid(1, len(machines), 5.2, 1.6 + 0.28 * len(order))
    future = {r.strategy: f"{r.strategy} (sees the future)" for r in comparison.rows if r.clairvoyant}
    place = {strategy: -i for i, strategy in enumerate(order)}
    fractions = _fractions(comparison)
    per_step = _tokens_per_step(comparison)
    for axes, hardware in zip(panels[0], machines, strict=True):
        for fraction, mark, colour in zip(fractions, _marks(len(fractions)), _shades(len(fractions)), strict=True):
            rows = [r for r in comparison.rows if (r.hardware, r.gpu_fraction) == (hardware, fraction)]
            x, y = [r.tokens_per_s for r in rows], [place[r.strategy] for r in rows]
            axes.scatter(x, y, s=38, marker=mark, color=colour, label=f"{fraction:.0%} of experts", zorder=3)
            bound = comparison.bound(hardware, fraction)
            if bound and per_step:
                axes.axvline(per_step / bound.step_s, color=colour, ls="--", lw=1, zorder=1)
        axes.set(title=hardware, xlabel="tokens/s (dashed: clairvoyant bound)", xlim=(0, None))
        axes.set_yticks(list(place.values()), [future.get(name, name) for name in order])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="best")
    figure.suptitle(_title(comparison))
    return figure


def draw_bytes(comparison: Comparison) -> Any:
    """A panel a machine: tokens/s over memory for experts, a line a strategy, named at its right end."""
    machines, colours = _machines(comparison), _colours(comparison)
    figure, panels = _grid(1, len(machines), 7.4, max(5.0, 0.27 * len(colours)))
    per_step = _tokens_per_step(comparison)
    for axes, hardware in zip(panels[0], machines, strict=True):
        ends = {}
        for strategy, colour in colours.items():
            rows = [r for r in comparison.rows if (r.hardware, r.strategy) == (hardware, strategy)]
            rows.sort(key=lambda r: r.gpu_bytes)
            if rows:
                style = "--" if rows[0].clairvoyant else "-"
                x, y = [r.gpu_bytes / GIB for r in rows], [r.tokens_per_s for r in rows]
                axes.plot(x, y, style, marker="o", ms=3.5, lw=1.4, color=colour)
                ends[strategy] = (x[-1], y[-1])
        limits = [b for b in comparison.bounds if b.hardware == hardware and b.kind == "clairvoyant"]
        if limits and per_step:
            whole = {r.gpu_fraction: r.gpu_bytes / GIB for r in comparison.rows}
            points = sorted((whole[b.gpu_fraction], per_step / b.step_s) for b in limits if b.gpu_fraction in whole)
            axes.plot(*zip(*points, strict=True), ":", marker="_", lw=2, color="black")
            ends["clairvoyant bound"] = points[-1]
        axes.set(title=hardware, xlabel="GPU memory for experts, GiB", ylabel="tokens/s", ylim=(0, None))
        axes.grid(alpha=0.3)
        _name_ends(axes, ends, {**colours, "clairvoyant bound": "black"})
    figure.suptitle(_title(comparison))
    return figure


def draw_hits(comparison: Comparison) -> Any:
    """A panel a machine and fraction: hit rate over bytes moved, strategies by number."""
    colours, machines, fractions = _colours(comparison), _machines(comparison), _fractions(comparison)
    figure, panels = _grid(len(machines), len(fractions), 5.4, 4.8)
    number = {strategy: i for i, strategy in enumerate(colours, start=1)}
    for i, hardware in enumerate(machines):
        for j, fraction in enumerate(fractions):
            axes = panels[i][j]
            rows = [r for r in comparison.rows if (r.hardware, r.gpu_fraction) == (hardware, fraction)]
            spots = [(row.bytes_per_token / MIB, 100 * row.hit_rate) for row in rows]
            for row, spot in zip(rows, spots, strict=True):
                axes.plot(*spot, "o", ms=4.5, color=colours[row.strategy], clip_on=False, zorder=3)
            axes.set(title=f"{hardware}, {fraction:.0%}", xlabel="moved, MiB a token", ylabel="hit rate at demand, %")
            axes.set_xscale("function", functions=(_signed_root, _signed_square))
            most = max((x for x, _ in spots), default=0.0)
            axes.set(xlim=(0, 1.7 * most + 1), ylim=(-4, 108))
            axes.set_xticks([x for x in MOVED_TICKS if x == 0 or most / 80 <= x <= 1.7 * most + 1])
            _number(axes, spots, [number[row.strategy] for row in rows], list(colours.values()))
            axes.grid(alpha=0.3)
    handles = [_dot(colour) for colour in colours.values()]
    names = [f"{number[strategy]}  {strategy}" for strategy in colours]
    across = max(2, int(figure.get_figwidth() / LEGEND_WIDTH))
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * -(-len(names) // across))
    figure.legend(handles, names, loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    figure.suptitle(_title(comparison))
    return figure


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 1.4, height * rows + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _dot(colour: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", ls="", color=colour)


def _name_ends(axes: Any, ends: dict[str, tuple[float, float]], colours: dict[str, Any]) -> None:
    """Names at the right ends of lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    apart = (high - low) * min(0.035, 0.95 / max(len(ends), 1))
    edge = max((x for x, _ in ends.values()), default=1.0)
    axes.set_xlim(right=edge * 1.38)
    ordered = sorted(ends.items(), key=lambda item: item[1][1])
    below = low - apart
    places = []
    for name, (x, y) in ordered:
        below = max(y, below + apart)
        places.append([name, x, y, below])
    ceiling = high - 0.3 * apart
    for place in reversed(places):  # a stack that grew over the top is pushed down again
        place[3] = ceiling = min(place[3], ceiling)
        ceiling -= apart
    for name, x, y, at in places:
        line = {"arrowstyle": "-", "color": colours[name], "lw": 0.6, "shrinkA": 0, "shrinkB": 0, "relpos": (0.0, 0.5)}
        axes.annotate(name, (x, y), (edge * 1.06, at), fontsize=8, color=colours[name], va="center", arrowprops=line)


def _number(axes: Any, spots: list[tuple[float, float]], numbers: list[int], colours: list[Any]) -> None:
    """Numbers beside their points, those of one point together, each at the nearest place that is still free."""
    to_axes = axes.transData + axes.transAxes.inverted()
    together: dict[tuple[float, float], list[int]] = {}
    for spot, number in sorted(zip(spots, numbers, strict=True), key=lambda item: item[1]):
        x, y = to_axes.transform(spot)
        together.setdefault((round(x, 2), round(y, 2)), []).append(number)
    taken = [(x - 0.012, x + 0.012, y) for x, y in together]
    for (x, y), here in together.items():
        text = " ".join(map(str, here))
        width = 0.018 * len(text) + 0.01
        colour = colours[here[0] - 1] if len(here) == 1 else "black"
        places = [(x + 0.02, y + 0.03 * step * sign) for step in range(20) for sign in (1, -1)]
        free = [p for p in places if _is_free(p, width, taken)] or places
        left, at = free[0]
        taken.append((left, left + width, at))
        line = {"arrowstyle": "-", "color": "0.6", "lw": 0.6, "relpos": (0.0, 0.5), "shrinkA": 0, "shrinkB": 2}
        far = {"arrowprops": line} if abs(at - y) > 0.01 else {}
        axes.annotate(
            text, (x, y), (left, at), "axes fraction", "axes fraction", fontsize=8, va="center", color=colour, **far
        )


def _signed_root(x: Any) -> Any:
    return np.sign(x) * np.sqrt(np.abs(x))


def _signed_square(x: Any) -> Any:
    return x * np.abs(x)


def _is_free(place: tuple[float, float], width: float, taken: list[tuple[float, float, float]]) -> bool:
    left, at = place
    inside = 0.0 <= at <= 1.0
    return inside and all(left > right or left + width < start or abs(at - y) > 0.03 for start, right, y in taken)


def _title(comparison: Comparison) -> str:
    facts = comparison.facts
    source = "simulated on datasheet profiles" if "datasheet" in " ".join(facts["notes"]) else "simulated"
    return f"{facts['model']}, {facts['tokens_scored']:,} tokens, {source}"


def _tokens_per_step(comparison: Comparison) -> float:
    """Tokens of a step where all steps are alike, so that a bound has tokens/s; 0 where prefill is among them."""
    facts = comparison.facts
    return 0.0 if "prefill" in facts["phases"] else facts["tokens_emitted"] / facts["steps"]


def _by_speed(comparison: Comparison) -> list[str]:
    """Strategies by geometric mean of tokens/s over the cells, best first."""
    logs: dict[str, list[float]] = {}
    for row in comparison.rows:
        logs.setdefault(row.strategy, []).append(np.log(max(row.tokens_per_s, 1e-9)))
    return sorted(logs, key=lambda strategy: -float(np.mean(logs[strategy])))


def _machines(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(row.hardware for row in comparison.rows))


def _fractions(comparison: Comparison) -> list[float]:
    return sorted({row.gpu_fraction for row in comparison.rows})


def _colours(comparison: Comparison) -> dict[str, Any]:
    from matplotlib import colormaps

    parts: list[tuple[Any, int]] = [(colormaps["tab10"], 1), (colormaps["Dark2"], 1), (colormaps["tab20b"], 2)]
    palette = [colour for part, every in parts for colour in part.colors[::every]]
    return {strategy: palette[i % len(palette)] for i, strategy in enumerate(_by_speed(comparison))}


def _marks(count: int) -> list[str]:
    return [MARKS[i % len(MARKS)] for i in range(count)]


def _shades(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * i / max(count - 1, 1)) for i in range(count)]
