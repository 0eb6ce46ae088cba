"""The page of a comparison: who is how fast at equal bytes, how near the bound, and what each lane did."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ...machine.sizes import show_bytes
from ..compare_view import UNITS, headline, whole
from .compare_figures import figures_of, label
from .page import Page, Section, Table, Tile

if TYPE_CHECKING:
    from ...replay.cell import Row
    from ...replay.result import Comparison

HEADINGS = (
    "strategy",
    "tokens/s",
    "whole",
    "of bound",
    "hits",
    "late",
    "moved MiB",
    "wasted MiB",
    "stall ms",
    "decide ms",
    "host ms",
)
OURS = "hetsched"
ORIGIN_TEXT = (
    "Simulated: recorded routing was replayed against a model of each machine. No GPU computed anything, and no time "
    "was measured on one; what the machines' figures are from is in the notes at the end."
)


def compare_page(comparison: Comparison) -> Page:
    """A section a machine, with a table for each share of the experts' bytes."""
    facts = comparison.facts
    sections = []
    for number, ((hardware, dtype), group) in enumerate(groupby(comparison.rows, key=_place)):
        rows = list(group)
        figures = figures_of(comparison, hardware, rows, f"machine{number}")
        title = f"{hardware}, {dtype}" if dtype else hardware
        sections.append(Section(title, "Every strategy has the same bytes of GPU memory for experts.", figures))
        sections += [_table(title, list(cell)) for _, cell in groupby(rows, key=lambda row: row.gpu_fraction)]
    if facts["notes"]:
        sections.append(Section("Notes", notes=[*_stand_ins(comparison.rows), UNITS, *facts["notes"]]))
    return Page(
        f"Strategies compared: {facts['model']}",
        headline(facts) + ".",
        "simulated",
        ORIGIN_TEXT,
        _tiles(comparison),
        sections,
        _warnings(comparison),
        _facts(comparison),
    )


def _tiles(comparison: Comparison) -> list[Tile]:
    cells = [list(rows) for _, rows in groupby(comparison.rows, key=lambda r: (*_place(r), r.gpu_fraction))]
    tiles = [Tile(f"{comparison.facts['tokens_scored']:,}", "tokens scored", "each strategy sees the same")]
    contests = "one contest" if len(cells) == 1 else f"{len(cells)} contests"
    tiles.append(Tile(str(len({label(row) for row in comparison.rows})), "strategies", contests))
    ratios, shares = [], []
    for rows in cells:
        fair = [row for row in rows if row.lossless and not row.clairvoyant]
        ours = [row.tokens_per_s for row in fair if row.strategy == OURS]
        others = [row.tokens_per_s for row in fair if row.strategy != OURS]
        shares += [row.efficiency for row in fair if row.strategy == OURS and row.efficiency is not None]
        if ours and others and max(others) > 0:
            ratios.append(max(ours) / max(others))
    if ratios:
        tiles.append(
            Tile(_span(ratios, "{:.2f}", "×"), f"{OURS} over the best other", "lossless, none sees the future")
        )
    if shares:
        tiles.append(
            Tile(_span([100 * s for s in shares], "{:.0f}", "%"), f"{OURS}, of the bound", "clairvoyant bound")
        )
    for rows in cells[: 4 if len(cells) <= 4 else 0]:
        best = max((row for row in rows if row.lossless and not row.clairvoyant), key=_speed, default=None)
        if best:
            where = f"{best.hardware}, {best.gpu_fraction:.0%} on the GPU"
            tiles.append(Tile(f"{best.tokens_per_s:.1f}", "tokens/s at best", f"{label(best)}; {where}"))
    return tiles


def _speed(row: Row) -> float:
    return row.tokens_per_s


def _span(values: list[float], form: str, unit: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return f"{low}{unit}" if low == high else f"{low}–{high}{unit}"


def _place(row: Row) -> tuple[str, str]:
    return row.hardware, getattr(row, "dtype", "")


def _table(machine: str, rows: list[Row]) -> Section:
    first = rows[0]
    title = f"{machine}, {first.gpu_fraction:.0%} of the experts on the GPU"
    marked = {i for i, row in enumerate(rows) if row.rank == 1 and row.lossless and not row.clairvoyant}
    table = Table(HEADINGS, [[label(row), *_cells(row)] for row in rows], frozenset(marked))
    return Section(
        title, f"{show_bytes(first.gpu_bytes)} for experts; figures are for one token, hits at demand.", table=table
    )


def _cells(row: Row) -> list[str]:
    mib = 2.0**20
    return [
        f"{row.tokens_per_s:.1f}",
        whole(row, "–"),
        "–" if row.efficiency is None else f"{row.efficiency:.0%}",
        f"{row.hit_rate:.1%}",
        f"{row.late_share:.1%}",
        f"{row.bytes_per_token / mib:.0f}",
        f"{row.wasted_bytes_per_token / mib:.0f}",
        f"{1e3 * row.stall_s_per_token:.2f}",
        f"{1e3 * row.decision_s_per_token:.2f}",
        f"{1e3 * row.host_s_per_token:.2f}",
    ]


def _stand_ins(rows: list[Row]) -> list[str]:
    return [f"{name}: {text}" for name, text in {row.strategy: row.stand_in for row in rows if row.stand_in}.items()]


def _warnings(comparison: Comparison) -> list[str]:
    warnings = [f"Failed: {failure}" for failure in comparison.failures]
    if not comparison.rows:
        warnings.append("No strategy came to a result, so there is nothing to draw.")
    elif all(row.efficiency is None for row in comparison.rows):
        warnings.append("No clairvoyant bound was computed, so nothing is held against it.")
    return warnings


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    names = {
        "trace": "trace",
        "fit_trace": "fitted on",
        "replay": "replay",
        "solver": "solver",
        "forecaster": "forecaster",
        "decision_charge": "seconds a decision",
        "host_charge": "seconds a layer for the engine",
        "recalibrate": "recalibration",
        "guard": "guard",
        "true_hardware": "true machine",
    }
    found = {name: comparison.facts.get(key) for key, name in names.items()}
    said = {True: "yes", False: "no"}
    found |= {name: Path(str(path)).name for name in ("trace", "fitted on") if (path := found[name]) is not None}
    return [(name, said[v] if isinstance(v, bool) else str(v)) for name, v in found.items() if v is not None]
