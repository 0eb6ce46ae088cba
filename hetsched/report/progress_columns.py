"""Columns of progress bars: where there is little room the words are broken, and no figure is cut."""

from __future__ import annotations

from rich.progress import ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column


def words(text: str = "{task.description}") -> TextColumn:
    """What is being done, as plain text; the one column that may take several lines."""
    return TextColumn(text, markup=False, table_column=Column(overflow="fold"))


def times() -> tuple[ProgressColumn, ...]:
    """Time passed, and time left."""
    return TimeElapsedColumn(table_column=whole()), TextColumn("left"), TimeRemainingColumn(table_column=whole())


def whole() -> Column:
    """For a column of figures."""
    return Column(no_wrap=True)
