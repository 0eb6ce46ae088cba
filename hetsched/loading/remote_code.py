"""transformers at work on somebody's files: what it raises and says, and code that comes with them.

Such code is never run unless the user says so, and never asked for on standard input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers

from ..errors import InputError
from ..reading import refusing


@contextmanager
def at_work(folder: Path, text: str, fix: str) -> Iterator[None]:
    """Whatever it raises inside as InputError, as `refusing` has it, and no warnings of its own beside that."""
    logging = transformers.utils.logging
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with refusing(text, fix), refused_code(folder):
            yield
    finally:
        logging.set_verbosity(told)


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
