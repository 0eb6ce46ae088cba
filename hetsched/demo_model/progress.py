"""One progress bar over all stages of a build."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn

from hetsched.report.progress_columns import times, words

Tick: TypeAlias = Callable[[float], None]  # told the fraction of the stage that is done, 0 to 1


class Stages:
    """The stages of a build: their share of the bar, and the seconds each took.

    `shares` maps the name of each stage to its expected part of the whole; they need not add up to 1.
    """

    def __init__(self, shares: dict[str, float], *, title: str, shown: bool) -> None:
        self.seconds: dict[str, float] = {}
        total = sum(shares.values())
        self._shares = {name: share / total for name, share in shares.items()}
        self._done = 0.0
        self._bar = Progress(
            words(),
            BarColumn(),
            TaskProgressColumn(),
            *times(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._title = title
        self._task = self._bar.add_task(title, total=1.0)

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    @contextmanager
    def stage(self, name: str, doing: str = "") -> Iterator[Tick]:
        """Context of one stage: yields the function that moves the bar within it. `doing` is said beside the bar."""
        start = time.perf_counter()
        share = self._shares[name]
        self._bar.update(self._task, description=f"{self._title}: {doing or name}")
        yield lambda fraction: self._bar.update(self._task, completed=self._done + share * fraction)
        self._done += share
        self._bar.update(self._task, completed=self._done)
        self.seconds[name] = time.perf_counter() - start
