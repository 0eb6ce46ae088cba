"""Figures of a comparison on one machine: a row a strategy, a mark a share of the experts' bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .drawing import GRID, INK, LANES, LINES, MARKS, legend, panel, rows, shades
from .page import Figure

if TYPE_CHECKING:
    from ...replay.cell import Row
    from ...replay.result import Comparison

GIB, MIB = 2**30, 2**20
NAMED = len(LINES)  # lines that have a name and a colour; the others are grey
ORIGIN = "simulated"


def label(row: Row) -> str:
    """A strategy as it stands in tables and pictures: with what sets it apart, and with drafts, where there were any."""
    drafts = getattr(row, "drafts", "")
    marks = [*([f"{drafts} drafts"] if drafts else []), *(["sees the future"] if row.clairvoyant else [])]
    marks += [*([] if row.lossless else ["lossy"]), *(["ids only"] if row.stand_in else [])]
    return f"{row.strategy} ({', '.join(marks)})" if marks else row.strategy


def figures_of(comparison: Comparison, hardware: str, rows_: Sequence[Row], key: str) -> list[Figure]:
    """Figures of one machine's rows; those that have nothing to show are left out."""
    names = list(dict.fromkeys(label(row) for row in sorted(rows_, key=lambda row: -row.tokens_per_s)))
    fractions = sorted({row.gpu_fraction for row in rows_})
    per_step = _tokens_per_step(comparison)
    bounds = {b.gpu_fraction: b.step_s for b in comparison.bounds if (b.hardware, b.kind) == (hardware, "clairvoyant")}
    limits = {f: per_step / bounds[f] for f in fractions if f in bounds and bounds[f] > 0 and per_step}
    best = max(rows_, key=lambda row: row.tokens_per_s)
    of = f"on {hardware}"
    made = [
        Figure(
            f"{key}-speed", "Tokens per second", ORIGIN,
            "A mark is a share of the experts' bytes that the GPU holds"
            + ("; a dashed line is what no strategy can beat, even one that sees the future." if limits else "."),
            f"Tokens per second of {len(names)} strategies {of}; the most is {best.tokens_per_s:.1f} by {label(best)} "
            f"with {best.gpu_fraction:.0%} of the experts on the GPU.",
            lambda: _draw_rows(rows_, names, fractions, lambda r: r.tokens_per_s, "tokens/s", limits),
        ),
    ]  # fmt: skip
    rated = [row for row in rows_ if row.efficiency is not None]
    if rated:
        top = max(rated, key=lambda row: row.efficiency or 0.0)
        made.append(Figure(
            f"{key}-efficiency", "Efficiency against the bound", ORIGIN,
            "Seconds of the bound over the strategy's seconds, on the same steps: 100% cannot be beaten at these bytes.",
            f"Share of the clairvoyant bound that each strategy reaches {of}; the most is {top.efficiency:.0%}, {label(top)}.",
            lambda: _draw_rows(rated, names, fractions, lambda r: 100 * (r.efficiency or 0.0), "% of the bound", {}, 100),
        ))  # fmt: skip
    if len(fractions) > 1:
        made.append(Figure(
            f"{key}-memory", "Speed by GPU memory", ORIGIN,
            f"The {min(NAMED, len(names))} fastest strategies are named, the others grey"
            + ("; dotted: the clairvoyant bound." if limits else "."),
            f"Tokens per second over GPU memory for experts {of}, from {fractions[0]:.0%} to {fractions[-1]:.0%} of them.",
            lambda: _draw_memory(rows_, names, limits),
        ))  # fmt: skip
    made += [
        Figure(
            f"{key}-hits", "Hit rate", ORIGIN,
            "Active experts that lay on the GPU, whole, when the router asked for them.",
            f"Hit rate of each strategy {of}, from {min(r.hit_rate for r in rows_):.0%} to {max(r.hit_rate for r in rows_):.0%}.",
            lambda: _draw_rows(rows_, names, fractions, lambda r: 100 * r.hit_rate, "% of active experts", {}, 100),
        ),
        Figure(
            f"{key}-moved", "Bytes over the link", ORIGIN,
            "Copies of experts into GPU memory, for one token: on demand, ahead of it, and in vain.",
            f"MiB copied to the GPU a token {of}, at most {max(r.bytes_per_token for r in rows_) / MIB:.0f}.",
            lambda: _draw_rows(rows_, names, fractions, lambda r: r.bytes_per_token / MIB, "MiB a token", {}),
        ),
        Figure(
            f"{key}-lanes", "Lanes' utilisation", ORIGIN,
            f"Seconds that a lane was busy over all seconds, with {fractions[0]:.0%} of the experts on the GPU.",
            f"Utilisation of GPU, CPU and link under each strategy {of}.",
            lambda: _draw_lanes([r for r in rows_ if r.gpu_fraction == fractions[0]], names),
        ),
    ]  # fmt: skip
    return made


def _draw_rows(
    rows_: Sequence[Row],
    names: Sequence[str],
    fractions: Sequence[float],
    value: Callable[[Row], float],
    what: str,
    limits: dict[float, float],
    most: float | None = None,
) -> Any:
    figure, axes = rows(names)
    _rails(axes, rows_, names, value)
    for fraction, colour, mark in zip(fractions, shades(len(fractions)), MARKS * len(fractions), strict=False):
        own = [row for row in rows_ if row.gpu_fraction == fraction]
        x, y = [value(row) for row in own], [-names.index(label(row)) for row in own]
        name = f"{fraction:.0%} on the GPU"
        axes.plot(x, y, mark, ms=5, color=colour, label=name, clip_on=False, zorder=3)
        if fraction in limits:
            axes.axvline(limits[fraction], color=colour, ls="--", lw=1, zorder=1)
    axes.set(xlim=(0, most), xlabel=what)
    legend(axes)
    return figure


def _rails(axes: Any, rows_: Sequence[Row], names: Sequence[str], value: Callable[[Row], float]) -> None:
    """A bar behind each name's marks, as far as its best."""
    best: dict[str, float] = {}
    for row in rows_:
        best[label(row)] = max(value(row), best.get(label(row), 0.0))
    axes.barh([-names.index(name) for name in best], list(best.values()), height=0.1, color=GRID, zorder=2)
    axes.grid(visible=False, axis="y")


def _draw_lanes(rows_: Sequence[Row], names: Sequence[str]) -> Any:
    figure, axes = rows(names)
    y = [-names.index(label(row)) for row in rows_]
    for lane, mark in zip(LANES, MARKS, strict=False):
        x = [100 * getattr(row, f"{lane.lower()}_utilisation") for row in rows_]
        axes.plot(x, y, mark, ms=5, color=LANES[lane][0], label=lane, clip_on=False, zorder=3)
    axes.set(xlim=(0, 100), xlabel="% of the time")
    legend(axes)
    return figure


def _draw_memory(rows_: Sequence[Row], names: Sequence[str], limits: dict[float, float]) -> Any:
    figure, axes = panel(2.9)
    colours = dict(zip(names[:NAMED], LINES, strict=False))
    for name, mark in zip(names, MARKS * len(names), strict=False):
        own = sorted((row for row in rows_ if label(row) == name), key=lambda row: row.gpu_bytes)
        x, y = [row.gpu_bytes / GIB for row in own], [row.tokens_per_s for row in own]
        style = {"ms": 4, "marker": mark, "lw": 1.5, "label": name} if name in colours else {"lw": 1.0, "zorder": 1}
        axes.plot(x, y, color=colours.get(name, GRID), **style)
    whole = {row.gpu_fraction: row.gpu_bytes / GIB for row in rows_}
    if limits:
        axes.plot([whole[f] for f in limits], list(limits.values()), ":", color=INK, lw=1.5, label="clairvoyant bound")
    axes.set(ylim=(0, None), xlabel="GPU memory for experts, GiB", ylabel="tokens/s")
    axes.margins(x=0.04)
    legend(axes)
    return figure


def _tokens_per_step(comparison: Comparison) -> float:
    facts = comparison.facts
    return 0.0 if "prefill" in facts["phases"] or not facts["steps"] else facts["tokens_emitted"] / facts["steps"]
