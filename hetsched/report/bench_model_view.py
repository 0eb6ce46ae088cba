"""`hetsched bench --model`: the columns of llama-bench, for a terminal and in Markdown.

Emulated and measured speeds, and lossy ones, stand in tables of their own, so that nobody reads one column of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.console import RenderableType

from hetsched.machine.sizes import show_bytes
from hetsched.report.tables import Column, Page, Sheet, figures, notes

HEADINGS = ("model", "size", "params", "backend", "test", "t/s")


def model_view(document: dict[str, Any]) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = []
    for title, rows in _groups(document):
        columns = (Column("model", prose=True), *figures("size", "params", drop=("params", "size")))
        table = Sheet(*columns, Column("backend", prose=True), "test", *figures("t/s"), title=title)
        for row in rows:
            table.add(*_cells(document, row))
        parts += [table, ""]
    return Page(*parts, *notes(_remarks(document)))


def model_markdown(document: dict[str, Any]) -> str:
    """The same in Markdown."""
    lines = []
    for title, rows in _groups(document):
        lines += [f"**{title}**", "", _line(HEADINGS), "| --- | ---: | ---: | --- | ---: | ---: |"]
        lines += [*(_line(_cells(document, row)) for row in rows), ""]
    return "\n".join([*lines, *(f"- {remark}" for remark in _remarks(document))])


def _groups(document: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows that may be compared, with what they are: those of one clock, lossless or not."""

    def kind(row: dict[str, Any]) -> tuple[str, bool]:
        return row["clock"], not row["lossless"]

    for (clock, lossy), rows in groupby(sorted(document["rows"], key=kind), kind):
        where = f"Emulated seconds, {document['hardware']}" if clock == "emulated" else "Measured, seconds of the wall"
        yield f"{where}{'; LOSSY' if lossy else ''}", list(rows)


def _cells(document: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    rate = f"{row['tokens_per_s']:.2f} ± {row['std']:.2f}"
    params = document["params"]
    many = f"{params / 1e9:.2f} B" if params >= 1e9 else f"{params / 1e6:.2f} M"
    named = f"{document['model']} {document['format']}"
    return named, show_bytes(document["weights_bytes"]), many, row["backend"], row["test"], rate


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _remarks(document: dict[str, Any]) -> list[str]:
    scheduled = [row for row in document["rows"] if row["gpu_expert_bytes"]]
    budgets = sorted({row["gpu_expert_bytes"] for row in scheduled})
    held = " or ".join(map(show_bytes, budgets))
    remarks = [f"experts on the GPU: {held} of {show_bytes(document['expert_bytes'])}"] if budgets else []
    remarks.append(f"mean ± deviation of {document['repetitions']} repetitions, after one to warm up")
    remarks.append("decisions and the engine's own time are in every second")
    for row in document["rows"]:
        spent = row["decision_s_per_token"], row["host_s_per_token"]
        if any(spent):
            decided, host = (f"{1e6 * s:.0f} µs" for s in spent)
            hits = f"{row['hit_rate']:.0%} of active experts hit, " if row["gpu_expert_bytes"] else ""
            remarks.append(f"{row['strategy']} {row['test']}: {hits}decisions {decided} and host {host} a token")
    if document["eager_missing"]:
        remarks.append(f"no row of transformers' eager: {document['eager_missing']}")
    else:
        remarks.append(f"transformers eager: without hetsched, on this machine, {document['threads']} threads")
    drawn = f"the prompt's ids are drawn (seed {document['seed']}), which routes otherwise than text"
    return [*remarks, f"{drawn}; decoding is greedy"]
