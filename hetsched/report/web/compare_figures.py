"""Figures of a comparison on one machine: a row a strategy, a mark a share of the experts' bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .drawing import (
    GRID,
    HEAD,
    INK,
    LANES,
    LINES,
    MARKS,
    MOST_LETTERS,
    ROW,
    legend,
    panel,
    readable,
    rows_panel,
    shades,
)
from .page import Figure

if TYPE_CHECKING:
    from ...replay.cell import Row
    from ...replay.result import Comparison

GIB, MIB = 2**30, 2**20
NAMED = len(LINES)  # lines that have a name and a colour; the others are grey
MOST_NAMES = 40  # rows of a picture; tables have all
ORIGIN = "simulated"


def label(row: Row) -> str:
    """A strategy as it stands in tables and pictures, with what sets it apart, and its drafts, where there were any."""
    drafts = getattr(row, "drafts", "")
    marks = [*([f"{drafts} drafts"] if drafts else []), *(["sees the future"] if row.clairvoyant else [])]
    marks += [*([] if row.lossless else ["lossy"]), *(["ids only"] if row.stand_in else [])]
    return f"{row.strategy} ({', '.join(marks)})" if marks else row.strategy


def figures_of(comparison: Comparison, hardware: str, rows: Sequence[Row], key: str) -> list[Figure]:
    """Figures of one machine's rows; those that have nothing to show are left out."""
    fastest = list(dict.fromkeys(label(row) for row in sorted(rows, key=lambda row: -row.tokens_per_s)))
    names = fastest[:MOST_NAMES]
    shown = [row for row in rows if label(row) in names]
    machine = _Machine(key, f"on {hardware}", shown, names, _limits(comparison, hardware, rows))
    made = [machine.speed(len(fastest)), machine.efficiency(), machine.memory(), machine.hits()]
    return [figure for figure in [*made, machine.moved(), machine.lanes()] if figure]


def _limits(comparison: Comparison, hardware: str, rows: Sequence[Row]) -> dict[float, float]:
    """Tokens/s of the clairvoyant bound by fraction, where all steps are alike so that it has any."""
    facts, fractions = comparison.facts, {row.gpu_fraction for row in rows}
    if "prefill" in facts["phases"] or not facts["steps"]:
        return {}
    per_step = facts["tokens_emitted"] / facts["steps"]
    bounds = [b for b in comparison.bounds if (b.hardware, b.kind) == (hardware, "clairvoyant") and b.step_s > 0]
    return {b.gpu_fraction: per_step / b.step_s for b in bounds if b.gpu_fraction in fractions}


@dataclass(frozen=True)
class _Machine:
    """Rows of one machine, its strategies' names fastest first, and bounds in tokens/s by fraction."""

    key: str
    where: str
    rows: Sequence[Row]
    names: Sequence[str]
    limits: dict[float, float]

    @property
    def fractions(self) -> list[float]:
        return sorted({row.gpu_fraction for row in self.rows})

    def figure(self, key: str, title: str, caption: str, alt: str, draw: Callable[[], Any]) -> Figure:
        return Figure(f"{self.key}-{key}", title, ORIGIN, caption, alt, draw)

    def speed(self, of: int) -> Figure:
        best = max(self.rows, key=lambda row: row.tokens_per_s)
        caption = "A mark is a share of the experts' bytes that the GPU holds"
        caption += (
            "; a dashed line is what no strategy can beat, even one that sees the future." if self.limits else "."
        )
        caption += f" The {len(self.names)} fastest of {of}; the tables have all." if of > len(self.names) else ""
        alt = f"Tokens per second of {len(self.names)} strategies {self.where}; the most is {best.tokens_per_s:.1f} by "
        alt += f"{label(best)} with {best.gpu_fraction:.0%} of the experts on the GPU."
        draw = partial(_draw_rows, self, lambda row: row.tokens_per_s, "tokens/s", limits=self.limits)
        return self.figure("speed", "Tokens per second", caption, alt, draw)

    def efficiency(self) -> Figure | None:
        rated = [row for row in self.rows if row.efficiency is not None]
        if not rated:
            return None
        caption = "Seconds of the clairvoyant bound over the strategy's, on the same steps: 100% cannot be beaten at "
        caption += "these bytes."
        top = max(rated, key=lambda row: row.efficiency or 0.0)
        alt = f"Share of the clairvoyant bound that each strategy reaches {self.where}; "
        alt += f"the most is {top.efficiency:.0%}, {label(top)}."
        shares: dict[int, float] = {id(row): 100 * (row.efficiency or 0.0) for row in rated}
        draw = partial(_draw_rows, self, lambda row: shares.get(id(row)), "% of the bound", most=100.0)
        return self.figure("efficiency", "Efficiency against the bound", caption, alt, draw)

    def memory(self) -> Figure | None:
        first, last = self.fractions[0], self.fractions[-1]
        if first == last:
            return None
        caption = f"The {min(NAMED, len(self.names))} fastest strategies are named, the others grey"
        caption += "; dotted: the clairvoyant bound." if self.limits else "."
        alt = f"Tokens per second over GPU memory for experts {self.where}, from {first:.0%} to {last:.0%} of them."
        return self.figure("memory", "Speed by GPU memory", caption, alt, partial(_draw_memory, self))

    def hits(self) -> Figure:
        caption = "Active experts that lay on the GPU, whole, when the router asked for them."
        rates = [row.hit_rate for row in self.rows]
        alt = f"Hit rate of each strategy {self.where}, from {min(rates):.0%} to {max(rates):.0%}."
        draw = partial(_draw_rows, self, lambda row: 100 * row.hit_rate, "% of active experts", most=100.0)
        return self.figure("hits", "Hit rate", caption, alt, draw)

    def moved(self) -> Figure:
        caption = "Copies of experts into GPU memory, for one token: on demand, ahead of it, and in vain."
        most = max(row.bytes_per_token for row in self.rows) / MIB
        alt = f"MiB copied to the GPU a token {self.where}, at most {most:.0f}."
        draw = partial(_draw_rows, self, lambda row: row.bytes_per_token / MIB, "MiB a token")
        return self.figure("moved", "Bytes over the link", caption, alt, draw)

    def lanes(self) -> Figure:
        least = self.fractions[0]
        caption = f"Seconds that a lane was busy over all seconds, with {least:.0%} of the experts on the GPU."
        alt = f"Utilisation of GPU, CPU and link under each strategy {self.where}."
        return self.figure("lanes", "Lanes' utilisation", caption, alt, partial(_draw_lanes, self, least))


def _draw_rows(
    machine: _Machine,
    value: Callable[[Row], float | None],
    what: str,
    limits: dict[float, float] | None = None,
    most: float | None = None,
) -> Any:
    figure, axes = rows_panel(machine.names)
    place = {name: -i for i, name in enumerate(machine.names)}
    spots = [(row.gpu_fraction, x, place[label(row)]) for row in machine.rows if (x := value(row)) is not None]
    for y in place.values():  # a rail to each one's best
        axes.barh(y, max((x for _, x, at in spots if at == y), default=0.0), height=0.1, color=GRID, zorder=2)
    fractions = machine.fractions
    for i, (fraction, colour) in enumerate(zip(fractions, shades(len(fractions)), strict=True)):
        own = [(x, y) for share, x, y in spots if share == fraction]
        style = {"ms": 5, "color": colour, "label": f"{fraction:.0%} on the GPU", "clip_on": False, "zorder": 3}
        axes.plot([x for x, _ in own], [y for _, y in own], MARKS[i % len(MARKS)], **style)
        if limits and fraction in limits:
            axes.axvline(limits[fraction], color=colour, ls="--", lw=1, zorder=1)
    axes.set(xlim=(0, most), xlabel=what)
    legend(axes)
    return figure


def _draw_lanes(machine: _Machine, fraction: float) -> Any:
    figure, axes = rows_panel(machine.names)
    rows = [row for row in machine.rows if row.gpu_fraction == fraction]
    y = [-machine.names.index(label(row)) for row in rows]
    for lane, mark in zip(LANES, MARKS, strict=False):
        x = [100 * getattr(row, f"{lane.lower()}_utilisation") for row in rows]
        axes.plot(x, y, mark, ms=5, color=LANES[lane][0], label=lane, clip_on=False, zorder=3)
    axes.set(xlim=(0, 100), xlabel="% of the time")
    axes.grid(visible=True, axis="y")
    legend(axes)
    return figure


def _draw_memory(machine: _Machine) -> Any:
    figure, axes = panel(min(max(2.9, HEAD + ROW * len(machine.names)), 4.2))
    colours = dict(zip(machine.names, LINES, strict=False))
    for i, name in enumerate(machine.names):
        own = sorted((row for row in machine.rows if label(row) == name), key=lambda row: row.gpu_bytes)
        x, y = [row.gpu_bytes / GIB for row in own], [row.tokens_per_s for row in own]
        mark = {"ms": 4, "marker": MARKS[i % len(MARKS)]}
        style = (
            {**mark, "lw": 1.5, "label": readable(name, MOST_LETTERS)} if name in colours else {"lw": 1.0, "zorder": 1}
        )
        axes.plot(x, y, color=colours.get(name, GRID), **style)
    whole = {row.gpu_fraction: row.gpu_bytes / GIB for row in machine.rows}
    if limits := sorted(machine.limits.items()):
        x, y = [whole[fraction] for fraction, _ in limits], [speed for _, speed in limits]
        axes.plot(x, y, ":", color=INK, lw=1.5, label="clairvoyant bound")
    axes.set(ylim=(0, None), xlabel="GPU memory for experts, GiB", ylabel="tokens/s")
    axes.margins(x=0.04)
    legend(axes)
    return figure
