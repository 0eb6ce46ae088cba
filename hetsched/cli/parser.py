"""The parser of the command line: mistakes in one line, and --debug after every verb."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ..errors import InputError


class Parser(argparse.ArgumentParser):
    """As argparse's, whose sub-parsers are of the same class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Suppressed: a verb's own default would overwrite what was given before it.
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )

    def error(self, message: str) -> NoReturn:
        """Raise InputError: what was meant, and where to read on."""
        raise InputError(f"{' '.join(message.split())}; see '{self.prog} --help'")
