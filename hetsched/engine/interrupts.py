"""Ctrl-C and SIGTERM held back while a model is put right: half of that would be worse than a late interrupt."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that Python handles are delivered when the block has ended. For short blocks: who sends one waits.

    Python delivers signals to the main thread alone, so in any other there is nothing to hold back. One that the system
    handles ends the process, and there is no model left to be put right.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _held(signal.SIGTERM), _held(signal.SIGINT):
        yield


@contextlib.contextmanager
def _held(number: signal.Signals) -> Iterator[None]:
    handler = signal.getsignal(number)
    if not callable(handler):
        yield
        return
    caught: list[int] = []
    signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(number, handler)
        if caught:
            signal.raise_signal(number)
