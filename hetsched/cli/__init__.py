"""The command line: one file a verb, each with add_parser() and run()."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from hetsched import __version__
from hetsched.errors import InputError, MissingDependencyError

VERBS = (
    "demo",
    "run",
    "verify",
    "model",
    "profiles",
    "profile",
    "doctor",
    "solve",
    "trace",
    "simulate",
    "compare",
    "bench",
)
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. 0 done, 1 failed, 2 bad usage or bad input, 130 interrupted; errors are one line on stderr."""
    debug = False
    try:
        args = _parser().parse_args(argv)
        debug = args.debug
        return int(args.run(args))
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (Exception, KeyboardInterrupt) as caught:
        if debug:
            raise
        error = _of_missing_package(caught) or caught
        print(f"hetsched: {_line(error)}", file=sys.stderr)
        return _code(error)


class _Parser(argparse.ArgumentParser):
    """argparse, but for its errors: one line, as all others."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message}; see '{self.prog} --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hetsched", description="Schedule the experts of a Mixture-of-Experts model whose GPU is too small."
    )
    parser.add_argument("--version", action="version", version=f"hetsched {__version__}")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        import_module(f"hetsched.cli.{verb}").add_parser(subparsers)
    for subparser in {id(p): p for p in subparsers.choices.values()}.values():
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _of_missing_package(error: BaseException) -> InputError | None:
    """A dependency of a verb that is not installed, as an error with its command."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    return MissingDependencyError(package, "this verb", f"pip install {package}")


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return BAD_INPUT if isinstance(error, InputError) else FAILED


def _line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing is half-written"
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text} (--debug shows where)"
