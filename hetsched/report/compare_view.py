"""A comparison as tables for a terminal: one for each machine and share of the experts, ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from hetsched.machine.sizes import show_bytes
from hetsched.report.tables import Column, Page, Sheet, console, notes

if TYPE_CHECKING:
    from hetsched.replay.cell import Row
    from hetsched.replay.result import BoundRow, Comparison

EIGHTHS = " ▏▎▍▌▋▊▉█"
BAR_CELLS = 6
BOUNDS = {"clairvoyant": "clairvoyant", "all-resident": "all-resident + CPU"}  # kinds, for people
FIGURES = ("tokens/s", "whole", "ms/step", "of bound", "hits", "late", "moved", "wasted", "stall", "decide", "host")
DROPPED = ("family", "late", "wasted", "host", "decide", "stall", "moved", "hits", "ms/step")  # if narrow, in order
UNITS = (
    "whole: tokens/s of whole tokens; moved and wasted in MiB, stall, decide and host (the engine itself) in ms, a "
    "token; hits at demand"
)


def print_comparison(comparison: Comparison, to: Console | None = None) -> None:
    """Print to standard output, or to a console of one's own."""
    (to or console()).print(compare_view(comparison))


def compare_view(comparison: Comparison) -> RenderableType:
    """What was replayed, a table for each machine and fraction, and notes."""
    facts = comparison.facts
    tables: list[RenderableType] = []
    for (hardware, fraction), rows in comparison.groups():
        bounds = [b for b in comparison.bounds if (b.hardware, b.gpu_fraction) == (hardware, fraction)]
        tables += [_table(rows, bounds), ""]
    stand_ins = {row.strategy: row.stand_in for row in comparison.rows if row.stand_in}
    remarks = [*(f"{name}: {text}" for name, text in stand_ins.items()), UNITS, *facts["notes"]]
    return Page(headline(facts), "", *tables, *notes(remarks))


def headline(facts: dict[str, object]) -> str:
    """One line on what was replayed."""
    steps = ", ".join(f"{count:,} {phase} steps" for phase, count in dict(facts["phases"]).items())  # type: ignore[call-overload]
    fitted = facts["sequences_fitted"]
    return (
        f"{facts['model']}, {facts['tokens_scored']:,} tokens of {facts['sequences_scored']} sequences in {steps}; "
        + (f"fitted on {fitted} other sequences" if fitted else "nothing fitted")
    )


def _table(rows: list[Row], bounds: list[BoundRow]) -> Sheet:
    first = rows[0]
    memory = f"{first.gpu_fraction:.0%} of the experts on the GPU ({show_bytes(first.gpu_bytes)})"
    with_family = any(row.family for row in rows)
    headings = ("", "strategy", *(["family"] if with_family else []), *FIGURES)
    right = {"", *FIGURES} - {"of bound"}
    columns = [Column(h, h in right, DROPPED.index(h) + 1 if h in DROPPED else 0) for h in headings]
    sheet = Sheet(*columns, title=f"{first.hardware}, {memory}")
    for row in rows:
        is_best = row.rank == 1 and not row.clairvoyant and row.lossless
        style = "bold green" if is_best else "dim" if row.clairvoyant else ""
        sheet.add(str(row.rank), _name(row), *([row.family] if with_family else []), *_cells(row), style=style)
    for bound in bounds:
        name = f"bound: {BOUNDS.get(bound.kind, bound.kind)}"
        cells = ["", name, *([""] if with_family else []), "", "", f"{1e3 * bound.step_s:.2f}"]
        sheet.add(*cells, *[""] * (len(headings) - len(cells)), style="dim italic")
    return sheet


def _name(row: Row) -> str:
    marks = [*(["sees the future"] if row.clairvoyant else []), *([] if row.lossless else ["lossy"])]
    marks += ["ids only"] if row.stand_in else []
    return f"{row.strategy} ({', '.join(marks)})" if marks else row.strategy


def _cells(row: Row) -> list[str]:
    share = "" if row.efficiency is None else f"{bar(row.efficiency)} {row.efficiency:4.0%}"
    return [
        f"{row.tokens_per_s:.1f}",
        whole(row),
        f"{1e3 * row.step_s:.2f}",
        share,
        f"{row.hit_rate:.1%}",
        f"{row.late_share:.1%}",
        f"{row.bytes_per_token / 2**20:.0f}",
        f"{row.wasted_bytes_per_token / 2**20:.0f}",
        f"{1e3 * row.stall_s_per_token:.2f}",
        f"{1e3 * row.decision_s_per_token:.2f}",
        f"{1e3 * row.host_s_per_token:.2f}",
    ]


def whole(row: Row, unknown: str = "") -> str:
    """Tokens a second with what a replay of layers with experts leaves out."""
    return unknown if row.whole_tokens_per_s is None else f"{row.whole_tokens_per_s:.1f}"


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of `cells` characters, filled to `share`."""
    eighths = round(8 * cells * min(max(share, 0.0), 1.0))
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(cells)
