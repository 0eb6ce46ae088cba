"""Telling engines in the child of a fork that they are there: their threads are not."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Whoever has threads."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_LIVING: weakref.WeakSet[Forkable] = weakref.WeakSet()


def tell_of_forks(engine: Forkable) -> None:
    """From now on `engine.forked()` is called in every child of this process, for as long as the engine lives."""
    _LIVING.add(engine)


def _in_the_child() -> None:
    for engine in list(_LIVING):
        engine.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
