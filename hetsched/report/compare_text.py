"""A comparison as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING

from hetsched.machine.sizes import show_bytes
from hetsched.report.compare_view import headline, whole

if TYPE_CHECKING:
    from hetsched.replay.cell import Row
    from hetsched.replay.result import Comparison

HEADINGS: tuple[str, ...] = (
    "strategy",
    "tokens/s",
    "whole tokens/s",
    "ms/step",
    "of the bound",
    "hit rate",
    "late",
    "MB moved/token",
    "MB wasted/token",
)
HEADINGS += ("stall ms/token", "decision ms/token", "host ms/token")


def markdown(comparison: Comparison) -> str:
    """A table for each machine and fraction, best first and in bold, with the notes beneath."""
    lines = [headline(comparison.facts), ""]
    for (hardware, fraction), rows in comparison.groups():
        lines += [f"**{hardware}, {fraction:.0%} of the experts on the GPU** ({show_bytes(rows[0].gpu_bytes)})", ""]
        lines += [_line(HEADINGS), _line(["---", *["---:"] * (len(HEADINGS) - 1)])]
        lines += [_line(_cells(row)) for row in rows]
        if bound := comparison.bound(hardware, fraction):
            cells = [f"*bound, {bound.kind}*", "", "", f"{1e3 * bound.step_s:.2f}"]
            lines.append(_line(cells + [""] * (len(HEADINGS) - len(cells))))
        lines.append("")
    lines += [f"- {note}" for note in comparison.facts["notes"]]
    return "\n".join(lines)


def csv_text(comparison: Comparison) -> str:
    """A line for each row, all its fields, with a heading; an absent figure is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, comparison.columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in comparison.rows)
    return out.getvalue()


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    marks = [*(["clairvoyant"] if row.clairvoyant else []), *([] if row.lossless else ["lossy"])]
    name = f"{row.strategy} ({', '.join(marks)})" if marks else row.strategy
    return [
        f"**{name}**" if row.rank == 1 and not marks else name,
        f"{row.tokens_per_s:.1f}",
        whole(row),
        f"{1e3 * row.step_s:.2f}",
        "" if row.efficiency is None else f"{row.efficiency:.2f}",
        f"{row.hit_rate:.3f}",
        f"{row.late_share:.3f}",
        f"{row.bytes_per_token / 1e6:.1f}",
        f"{row.wasted_bytes_per_token / 1e6:.1f}",
        f"{1e3 * row.stall_s_per_token:.2f}",
        f"{1e3 * row.decision_s_per_token:.2f}",
        f"{1e3 * row.host_s_per_token:.2f}",
    ]
