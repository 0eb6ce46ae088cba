"""Standard output and standard error that are closed, full, or read by somebody who goes away."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class OutputError(OSError):
    """Standard output takes no more."""


def open_closed() -> None:
    """Something in the place of streams that are closed, as after `>&-`, before a file to be written gets their number.

    Standard input is at its end, standard output refuses what is written to it, as a closed one does, and what would
    be said on standard error is lost.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= 2:
        if number == 2:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115, for the life of the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def output_told_whole() -> Iterator[None]:
    """A block after which all that was printed in it has arrived. Raises OutputError where it cannot, BrokenPipeError
    where nobody reads any more.
    """
    try:
        yield
    except (OSError, SystemExit):  # the latter after --help
        _flush()
        raise
    _flush()


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise OutputError(error.errno, f"standard output cannot be written to: {error.strerror}") from error


def say(line: str) -> None:
    """A line on standard error, where that can be written to."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let the end of the process not fail on what a stream could not take."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
