"""`hetsched bench --model` for a terminal: the columns of llama-bench."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from hetsched.machine.sizes import show_bytes
from hetsched.report.tables import Column, Page, Sheet, figures, notes


def model_view(document: dict[str, Any]) -> RenderableType:
    """The whole report."""
    headings = ("experts", "format", "strategy", "test")
    table = Sheet(Column("model", prose=True), *headings, *figures("t/s", "hits", drop=("hits",)))
    size = show_bytes(document["weights_bytes"])
    for row in document["rows"]:
        rate = f"{row['tokens_per_s']:.2f} ± {row['std']:.2f}"
        label = row["strategy"] if row["lossless"] else f"{row['strategy']} (LOSSY)"
        table.add(document["model"], size, document["format"], label, row["test"], rate, f"{row['hit_rate']:.0%}")
    where = f"{document['hardware']}: {'emulated seconds' if document['emulated'] else 'seconds of the wall'}"
    held = f"{show_bytes(document['gpu_expert_bytes'])} of experts on the GPU; " if document["gpu_expert_bytes"] else ""
    remarks = [
        f"{where}; {held}mean ± deviation of {document['repetitions']} after one to warm up",
        f"the prompt's ids are drawn (seed {document['seed']}), which routes otherwise than text; decoding is greedy",
    ]
    return Page(table, "", *notes(remarks))
