"""Engines that live: told in the child of a fork that their threads are not there, closed when the process ends."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Living(Protocol):
    """Whoever has threads."""

    def forked(self) -> None:
        """Called in the child of a fork, before anything else runs there."""
        ...

    def close(self) -> None:
        """End them; called when the process ends."""
        ...


_LIVING: weakref.WeakSet[Living] = weakref.WeakSet()


def lives(engine: Living) -> None:
    """From now on the engine is told of forks and of the end, for as long as it lives."""
    _LIVING.add(engine)


def _in_the_child() -> None:
    for engine in list(_LIVING):
        engine.forked()


@atexit.register
def _at_the_end() -> None:
    for engine in list(_LIVING):
        engine.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
