"""A comparison of speculation for a terminal and as Markdown: a table for each cell, and hetsched's ratios over all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from hetsched.machine.sizes import show_bytes
from hetsched.report.compare_view import headline, whole
from hetsched.report.tables import Column, Page, Sheet, notes

if TYPE_CHECKING:
    from hetsched.replay.cell import SpeculativeRow
    from hetsched.replay.headline import CellKey, Headline, Verdict
    from hetsched.replay.speculation import SpeculationComparison

HEADINGS = (
    *("", "system", "strategy", "drafts", "tokens/s", "whole", "accepted", "mean K", "hits"),
    *("moved", "wasted", "stall"),
)
DROPPED = ("wasted", "stall", "mean K", "moved", "hits", "accepted")
PROSE = ("system", "strategy")
UNITS = (
    "drafts: asked for in each step, blank: token by token; whole: tokens/s of whole tokens; moved and wasted in MiB, "
    "stall in ms, a token"
)
SUMMARY = (
    *("precision", "machine", "experts", "tokens/s", "drafts", "speculative", "which is", "standard mean"),
    *("MoE-SpAc", "roof"),
)
SUMMARY_DROPPED = ("drafts", "roof", "which is", "MoE-SpAc")
ROOF = (
    "speculative: the best baseline that drafts; standard mean: the mean of those that do not; roof: every expert on "
    "the GPU and the best number of drafts, over the best baseline that drafts; below 1.42 no strategy reaches the "
    "paper's ratio"
)

BLANK = "blank ratios: no such strategy was compared, see --strategies"


def speculation_view(compared: SpeculationComparison) -> RenderableType:
    """What was replayed, a table for each cell, the ratios, and notes."""
    tables: list[RenderableType] = []
    for key, rows in compared.cells():
        columns = [Column(h, h not in PROSE, DROPPED.index(h) + 1 if h in DROPPED else 0) for h in HEADINGS]
        sheet = Sheet(*columns, title=_title(key, rows))
        for row in rows:
            sheet.add(*_cells(row), style="bold green" if row.rank == 1 else "")
        tables += [sheet, ""]
    columns = [
        Column(
            h,
            h not in ("precision", "machine", "which is"),
            1 + SUMMARY_DROPPED.index(h) if h in SUMMARY_DROPPED else 0,
        )
        for h in SUMMARY
    ]
    summary = Sheet(*columns, title="hetsched, and what it is over others")
    for cells in _summary(compared.headline):
        summary.add(*cells)
    remarks = notes(_notes(compared))
    return Page(headline(compared.facts), "", *tables, summary, "", *remarks)


def speculation_markdown(compared: SpeculationComparison) -> str:
    """The same in Markdown."""
    lines = [headline(compared.facts), ""]
    for key, rows in compared.cells():
        lines += [f"**{_title(key, rows)}**", "", *_table(HEADINGS, [_cells(row) for row in rows]), ""]
    lines += [*_table(SUMMARY, _summary(compared.headline)), ""]
    return "\n".join([*lines, *(f"- {note}" for note in _notes(compared))])


def _notes(compared: SpeculationComparison) -> list[str]:
    ratios = [
        r for v in compared.headline.cells for r in (v.over_best_speculative, v.over_standard_mean, v.over_moe_spac)
    ]
    return [UNITS, ROOF, *([BLANK] if None in ratios else []), *compared.facts["notes"]]


def _title(key: CellKey, rows: list[SpeculativeRow]) -> str:
    dtype, hardware, fraction = key
    memory = show_bytes(max(row.gpu_bytes for row in rows))
    return f"{hardware}, {fraction:.0%} of the {dtype} experts on the GPU ({memory})"


def _cells(row: SpeculativeRow) -> list[str]:
    return [
        str(row.rank),
        row.system,
        row.strategy,
        row.drafts,
        f"{row.tokens_per_s:.1f}",
        whole(row),
        f"{row.acceptance:.0%}" if row.drafts else "",
        f"{row.mean_k:.2f}" if row.drafts else "",
        f"{row.hit_rate:.1%}",
        f"{row.bytes_per_token / 2**20:.0f}",
        f"{row.wasted_bytes_per_token / 2**20:.0f}",
        f"{1e3 * row.stall_s_per_token:.2f}",
    ]


def _summary(found: Headline) -> list[list[str]]:
    """A line for each cell, and the geometric means."""
    means = (found.over_best_speculative, "", found.over_standard_mean, found.over_moe_spac)
    mean = ["geometric mean", "", "", "", "", *(m if isinstance(m, str) else _ratio(m) for m in means), ""]
    return [*map(_verdict, found.cells), mean]


def _verdict(v: Verdict) -> list[str]:
    return [
        v.dtype,
        v.hardware,
        f"{v.gpu_fraction:.0%}",
        f"{v.tokens_per_s:.1f}",
        v.drafts,
        _ratio(v.over_best_speculative),
        v.best_speculative or "",
        _ratio(v.over_standard_mean),
        _ratio(v.over_moe_spac),
        _ratio(v.roof_over_best_speculative),
    ]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(headings: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    marks = ["---" if heading in (*PROSE, "precision", "machine", "which is") else "---:" for heading in headings]
    return [f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows)]
