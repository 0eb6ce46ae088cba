"""What a comparison came to: rows, bounds and failures, with ranks and efficiencies; as a document, table or plot."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .cell import Cell, CellResult, Row
from .limits import WINDOW_STEPS, Limit, LimitResult
from .workers import Crash, Outcome, Task

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "hetsched-compare/1"


class BoundRow(NamedTuple):
    """Mean seconds of a step that no strategy beats, over the `steps` steps of `windows` windows.

    `kind`: "clairvoyant", or "all-resident", the roof with unlimited GPU memory, where the CPU takes
    experts that the GPU would be longer for.
    """

    hardware: str
    gpu_fraction: float
    step_s: float
    kind: str
    windows: int
    steps: int


class Failure(NamedTuple):
    """A cell, or a bound, that raised: why in one line, where as a traceback."""

    hardware: str
    gpu_fraction: float
    what: str
    why: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.what} on {self.hardware} at {self.gpu_fraction:.0%}: {self.why}"


@dataclass(frozen=True)
class Comparison:
    """Rows by machine, fraction and rank. `facts`: what was replayed and how, as in the JSON document.

    `is_complete`: every strategy ran; a bound that failed is a note in `facts`.
    """

    rows: list[Row]
    bounds: list[BoundRow]
    failures: list[Failure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every strategy ran in every cell."""
        return not self.failures

    def groups(self) -> Iterator[tuple[tuple[str, float], list[Row]]]:
        """Rows of each (machine, fraction), best first."""
        for key, rows in groupby(self.rows, key=lambda row: (row.hardware, row.gpu_fraction)):
            yield key, list(rows)

    def bound(self, hardware: str, gpu_fraction: float, kind: str = "clairvoyant") -> BoundRow | None:
        """One bound, if there is one."""
        key = (hardware, gpu_fraction, kind)
        return next((b for b in self.bounds if (b.hardware, b.gpu_fraction, b.kind) == key), None)

    def document(self) -> dict[str, Any]:
        """The JSON document "hetsched-compare/1"."""
        return {
            "schema": SCHEMA,
            **self.facts,
            "rows": [asdict(row) for row in self.rows],
            "bounds": [bound._asdict() for bound in self.bounds],
            "failures": [{k: v for k, v in f._asdict().items() if k != "where"} for f in self.failures],
        }

    def columns(self) -> list[str]:
        """Names of a row's figures."""
        return [field.name for field in fields(Row)]

    def table(self) -> RenderableType:
        """For a terminal, through rich."""
        from ..report.compare_view import compare_view

        return compare_view(self)

    def print(self) -> None:
        """Print the table, and on standard error what failed."""
        from ..report.compare_view import print_comparison

        print_comparison(self)
        for failure in self.failures:
            print(f"failed: {failure}", file=sys.stderr)

    def markdown(self) -> str:
        """A Markdown table for each machine and fraction."""
        from ..report.compare_text import markdown

        return markdown(self)

    def csv(self) -> str:
        """All fields of all rows, comma-separated."""
        from ..report.compare_text import csv_text

        return csv_text(self)

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw three pictures into a folder; their paths."""
        from ..report.compare_plot import plot_comparison

        return plot_comparison(self, Path(folder))


def gather(tasks: Sequence[Task], outcomes: Sequence[Outcome], facts: dict[str, Any]) -> Comparison:
    """A comparison from the outcomes of its tasks."""
    pairs = list(zip(tasks, outcomes, strict=True))
    limits = {(o.hardware, o.gpu_fraction): o for o in outcomes if isinstance(o, LimitResult)}
    cells = [outcome for outcome in outcomes if isinstance(outcome, CellResult)]
    rows = [replace(cell.row, efficiency=_efficiency(cell, limits)) for cell in cells]
    crashes = [(task, crash) for task, crash in pairs if isinstance(crash, Crash)]
    failures = [
        Failure(task.machine.name, task.gpu_fraction, task.strategy.label, *crash)
        for task, crash in crashes
        if isinstance(task, Cell)
    ]
    notes = [
        f"no bound for {task.machine.name} at {task.gpu_fraction:.0%}: {crash.why}"
        for task, crash in crashes
        if isinstance(task, Limit)
    ]
    bounds = [row for limit in limits.values() for row in _bound_rows(limit)]
    if bounds:
        notes.append(
            f"the bound covers {bounds[0].steps} steps in {bounds[0].windows} evenly spread windows of {WINDOW_STEPS}; "
            "efficiency is its time over the strategy's on the same steps; all-resident: every expert has a slot, and "
            "the CPU still takes some where the GPU alone would be longer"
        )
    notes += [
        f"{name} has no GPU: nothing to bound" for name in {h: None for (h, _), o in limits.items() if not o.bounds}
    ]
    return Comparison(_ranked(rows), bounds, failures, {**facts, "notes": [*facts["notes"], *notes]})


def _efficiency(cell: CellResult, limits: dict[tuple[str, float], LimitResult]) -> float | None:
    limit = limits.get((cell.row.hardware, cell.row.gpu_fraction))
    if limit is None or not limit.bounds:
        return None
    bound = limit.bounds[0]
    achieved_s = float(cell.step_s_S[bound.steps].sum())
    return float(bound.window_s.sum()) / achieved_s if achieved_s > 0 else None


def _bound_rows(limit: LimitResult) -> list[BoundRow]:
    return [
        BoundRow(limit.hardware, limit.gpu_fraction, b.step_s, b.kind, len(b.windows), len(b.steps))
        for b in limit.bounds
    ]


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows by machine and fraction, in the order given; inside, non-clairvoyant lossless ones first, best first."""
    cells = list(dict.fromkeys((row.hardware, row.gpu_fraction) for row in rows))

    def league(row: Row) -> tuple[int, bool, bool]:
        return cells.index((row.hardware, row.gpu_fraction)), row.clairvoyant, not row.lossless

    ordered = sorted(rows, key=lambda row: (*league(row), -row.tokens_per_s, row.step_s, row.strategy))
    return [replace(row, rank=i) for _, group in groupby(ordered, key=league) for i, row in enumerate(group, start=1)]
