"""The parser of the command line: mistakes in one line, and --debug after every verb."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

BAD_USAGE = 2


class Parser(argparse.ArgumentParser):
    """As argparse's, whose sub-parsers are of the same class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Suppressed: a verb's own default would overwrite what was given before it.
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )

    def error(self, message: str) -> NoReturn:
        """Name the mistake and where to read on, in one line on standard error; exit 2."""
        print(f"{self.prog}: {' '.join(message.split())} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(BAD_USAGE)
