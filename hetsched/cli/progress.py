"""A bar for what takes its time, on standard error of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn

from hetsched.report.progress_columns import times, words
from hetsched.report.tables import console


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told (done, of how many), gone at the end; elsewhere than on a terminal nothing."""
    columns = words(), BarColumn(), TaskProgressColumn(), *times()
    to = console(stderr=True)
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
