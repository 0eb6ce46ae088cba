"""What the guard came to, for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import RenderableType

from hetsched.report.tables import Column, Page, Sheet, figures, notes


def guard_view(document: dict[str, Any], is_missed: Callable[[dict[str, Any]], bool]) -> RenderableType:
    """The whole report of `hetsched bench --guard`; rows that miss their target are marked."""
    title = f"{document['model']} on {document['hardware']} (simulated), {document['steps']:,} steps a case"
    columns = figures("its time", "hetsched", "ratio", "switches", drop=("switches",))
    table = Sheet(Column("case", prose=True), Column("best simple strategy", prose=True), *columns, title=title)
    for row in document["rows"]:
        seconds = [f"{row[key]:.2f} s" for key in ("best_simple_s", "hetsched_s")]
        style = "bold red" if is_missed(row) else ""
        table.add(row["case"], row["best_simple"], *seconds, f"{row['ratio']:.3f}", f"{row['switches']}", style=style)
    misses = [row["case"] for row in document["rows"] if is_missed(row)]
    count = f"{len(misses)} of {len(document['rows'])} cases miss the target"
    verdict = f"{count}: {', '.join(misses)}" if misses else "every case meets the target"
    remarks = [f"{name.replace('_', ' ')}: {said}" for name, said in document["meaning"].items()]
    share = f"{document['gpu_fraction']:.0%} of the experts fit on the GPU, seed {document['seed']}"
    return Page(table, "", *notes([verdict, *remarks, share]))
