"""A comparison as tables for a terminal: one for each machine and share of the experts, ranked."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hetsched.replay.cell import Row
from hetsched.replay.result import BoundRow, Comparison
from hetsched.report.profile_view import PLAIN
from hetsched.sizes import show_bytes

EIGHTHS = " ▏▎▍▌▋▊▉█"
BAR_CELLS = 6
NARROW, WIDE = 94, 112  # columns that the tables need, without and with families
FIGURES = ("tokens/s", "ms/step", "of bound", "hits", "late", "moved", "wasted", "stall", "decide")
UNITS = "moved and wasted in MiB, stall and decide in ms, a token; hits at demand"
TIGHT: dict[str, Any] = {**PLAIN, "padding": (0, 1, 0, 0)}


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print to a terminal; one too narrow for the tables gets broken lines rather than broken figures."""
    width = (console or Console()).width
    Console(width=max(width, NARROW), highlight=False).print(compare_view(comparison, width >= WIDE))


def compare_view(comparison: Comparison, with_family: bool = True) -> RenderableType:
    """What was replayed, a table for each machine and fraction, and notes."""
    facts = comparison.facts
    with_family = with_family and any(row.family for row in comparison.rows)
    tables: list[RenderableType] = []
    for (hardware, fraction), rows in comparison.groups():
        bounds = [b for b in comparison.bounds if (b.hardware, b.gpu_fraction) == (hardware, fraction)]
        tables += [_table(rows, bounds, with_family), Text()]
    stand_ins = {row.strategy: row.stand_in for row in comparison.rows if row.stand_in}
    notes = [*(f"{name}: {text}" for name, text in stand_ins.items()), UNITS, *facts["notes"]]
    return Group(Text(headline(facts)), Text(), *tables, *(Text(f"· {note}", style="dim") for note in notes))


def headline(facts: dict[str, object]) -> str:
    """One line on what was replayed."""
    steps = ", ".join(f"{count:,} {phase} steps" for phase, count in dict(facts["phases"]).items())  # type: ignore[call-overload]
    fitted = facts["sequences_fitted"]
    return (
        f"{facts['model']}, {facts['tokens_scored']:,} tokens of {facts['sequences_scored']} sequences in {steps}; "
        + (f"fitted on {fitted} other sequences" if fitted else "nothing fitted")
    )


def _table(rows: list[Row], bounds: list[BoundRow], with_family: bool) -> Table:
    first = rows[0]
    memory = f"{first.gpu_fraction:.0%} of the experts on the GPU ({show_bytes(first.gpu_bytes)})"
    table = Table(title=f"{first.hardware}, {memory}", title_justify="left", title_style="bold", **TIGHT)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    if with_family:
        table.add_column("family", no_wrap=True)
    for name in FIGURES:
        table.add_column(name, justify="left" if name == "of bound" else "right", no_wrap=True)
    for row in rows:
        is_best = row.rank == 1 and not row.clairvoyant and row.lossless
        style = "bold green" if is_best else "dim" if row.clairvoyant else None
        family = [row.family] if with_family else []
        table.add_row(str(row.rank), _name(row), *family, *_cells(row), style=style)
    for bound in bounds:
        family = [""] if with_family else []
        table.add_row("", f"bound: {bound.kind}", *family, "", f"{1e3 * bound.step_s:.2f}", style="dim italic")
    return table


def _name(row: Row) -> str:
    marks = [*(["sees the future"] if row.clairvoyant else []), *([] if row.lossless else ["lossy"])]
    marks += ["ids only"] if row.stand_in else []
    return f"{row.strategy} ({', '.join(marks)})" if marks else row.strategy


def _cells(row: Row) -> list[str]:
    share = "" if row.efficiency is None else f"{bar(row.efficiency)} {row.efficiency:4.0%}"
    return [
        f"{row.tokens_per_s:.1f}",
        f"{1e3 * row.step_s:.2f}",
        share,
        f"{row.hit_rate:.1%}",
        f"{row.late_share:.1%}",
        f"{row.bytes_per_token / 2**20:.0f}",
        f"{row.wasted_bytes_per_token / 2**20:.0f}",
        f"{1e3 * row.stall_s_per_token:.2f}",
        f"{1e3 * row.decision_s_per_token:.2f}",
    ]


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of `cells` characters, filled to `share`."""
    eighths = round(8 * cells * min(max(share, 0.0), 1.0))
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(cells)
