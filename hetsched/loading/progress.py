"""Progress on standard error: what a start waits for, and of a load its bytes and time left.

Elsewhere than on a terminal a load leaves one line at the end, and a start says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from ..machine.sizes import show_bytes
from ..report.progress_columns import whole, words
from ..report.tables import console as stderr_console


@contextmanager
def stage(text: str, *, shown: bool = True) -> Iterator[None]:
    """A spinner with `text` on a terminal while the block runs, gone after it; one at a time."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield
        return
    with console.status(text):
        yield


class LoadProgress:
    """Bytes of experts in place out of `total_bytes`. A context manager; `shown` False says nothing at all."""

    def __init__(self, title: str, total_bytes: int, *, shown: bool, console: Console | None = None) -> None:
        self.done_bytes = 0
        self._title, self._shown, self._total_bytes = title, shown, total_bytes
        self._console = console or stderr_console(stderr=True)
        self._bar = Progress(
            words(),
            BarColumn(),
            DownloadColumn(binary_units=True, table_column=whole()),
            TransferSpeedColumn(table_column=whole()),
            TimeRemainingColumn(table_column=whole()),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total_bytes)

    def __enter__(self) -> LoadProgress:
        self._begin_s = time.perf_counter()
        self._bar.start()
        return self

    def advance(self, num_bytes: int) -> None:
        """So many more bytes are in place."""
        self.done_bytes += num_bytes
        self._bar.update(self._task, advance=num_bytes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._shown and kind is None:
            seconds = time.perf_counter() - self._begin_s
            self._console.print(
                f"{self._title}: {show_bytes(self._total_bytes)} of experts in {seconds:.1f} s",
                markup=False,
                highlight=False,
            )
