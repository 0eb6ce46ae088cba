"""logging: a block in which a scheduler's run is logged to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..machine.profile import HardwareProfile
from ..scheduler import Scheduler
from .logged import LoggedScheduler
from .writing import MAX_BYTES, header_of

MOST_BYTES = 64 << 30


@contextmanager
def logging(
    scheduler: Scheduler,
    path: str | Path | None,
    hardware: HardwareProfile,
    clock: str,
    *,
    lossless: bool = True,
    max_bytes: int = MAX_BYTES,
    at_once: bool = False,
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Log to `path`, None: nothing. What the block is given is called with what the run came to, at its end.

    A block that is left in another way leaves a log without an end, of all that was recorded.
    """
    if path is None:
        yield lambda stats: None
        return
    log = open_log(scheduler, path, hardware, clock, lossless=lossless, max_bytes=max_bytes, at_once=at_once)
    try:
        yield log.end
    finally:
        log.stop()


def open_log(
    scheduler: Scheduler,
    path: str | Path,
    hardware: HardwareProfile,
    clock: str,
    *,
    lossless: bool = True,
    max_bytes: int = MAX_BYTES,
    at_once: bool = False,
) -> Any:
    """A log that the scheduler feeds from now on: a LayerLog. Raises InputError for a place that cannot be written."""
    from .recording import LayerLog  # numba takes long to import

    if not 0 < max_bytes <= MOST_BYTES:
        raise InputError(f"a log of at most {max_bytes} bytes; choose 1 to {MOST_BYTES}")
    assert isinstance(scheduler, LoggedScheduler)
    header = header_of(scheduler, hardware, clock, scheduler.frequency_LE, lossless)
    scheduler.log = log = LayerLog(path, header, scheduler, max_bytes, at_once=at_once)
    return log
