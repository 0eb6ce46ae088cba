"""Code that comes with a checkpoint: never run unless the user says so, and never asked for on standard input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


@contextmanager
def refused_code(folder: Path) -> Iterator[None]:
    """transformers' refusal to run a folder's own modules, as one line that says how to allow it."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(
            f"{folder} can only be loaded by running Python code that came with it, which is not done unasked; read "
            "that code, then add --trust-remote-code (in Python: trust_remote_code=True)"
        ) from error
