"""The command line: one file a verb, each with add_parser() and run()."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from hetsched.errors import InputError, MissingDependencyError, Terminated, one_line
from hetsched.report.encoding import make_streams_safe
from hetsched.signals import asked, code_of, keep

from .parser import Parser
from .paths import preflight
from .streams import OutputError, open_closed, output_told_whole, say, silence

VERBS = (
    "demo",
    "run",
    "serve",
    "verify",
    "model",
    "plan",
    "profiles",
    "profile",
    "doctor",
    "solve",
    "trace",
    "analyse",
    "predictor",
    "simulate",
    "compare",
    "evaluate",
    "report",
    "bench",
    "explain",
    "timeline",
    "completion",
)
FIRST_STEPS = (
    "hetsched demo",
    "hetsched plan --model gpt-oss-120b --hardware rtx-3090",
    "hetsched run --model PATH --prompt 'The lighthouse keeper' --hardware rtx-4060-laptop-8gb",
    "hetsched VERB --help",
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EBADF)  # of what is written to
DONE, FAILED, BAD_INPUT = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb: 0 done, 1 failed, 2 bad usage or bad input, 130 or 143 interrupted.

    Errors are one line on standard error.
    """
    open_closed()
    make_streams_safe()
    try:
        with output_told_whole():
            args = _parser().parse_args(argv)
            preflight(args)
            return int(args.run(args))
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        silence(sys.stdout)
        return DONE
    except (Exception, KeyboardInterrupt, Terminated) as caught:
        if "--debug" in (sys.argv if argv is None else argv):  # the arguments may not have been understood
            raise
        if isinstance(caught, (KeyboardInterrupt, Terminated)):
            keep(caught)
        error = asked() or _of_missing_package(caught) or _of_memory(caught) or caught
        say(f"hetsched: {_line(error)}")
        return _code(error)


def _parser() -> Parser:
    parser = Parser(
        prog="hetsched", description="Schedule the experts of a Mixture-of-Experts model whose GPU is too small."
    )
    parser.set_defaults(debug=False, run=lambda _: _help(parser))  # run: without any verb
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB")
    modules = [import_module(f"hetsched.cli.{verb}") for verb in VERBS]
    for module in modules:
        module.add_parser(subparsers)
    parser.show_examples([line for module in modules for line in module.EXAMPLES])
    parser.examples = list(FIRST_STEPS)  # all would be too many here
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return DONE


def _of_missing_package(error: BaseException) -> InputError | None:
    """A dependency of a verb that is not installed, as an error with its command."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    return MissingDependencyError(package, "this verb", f"pip install {package}")


def _of_memory(error: BaseException) -> InputError | None:
    """What asks for more memory than there is, whatever option or file has asked for it."""
    if not isinstance(error, MemoryError):
        return None
    return InputError(f"there is not enough memory ({one_line(error) or 'nobody says for what'}); ask for less")


def _code(error: BaseException) -> int:
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        return code_of(error)
    return BAD_INPUT if isinstance(error, InputError) else FAILED


def _line(error: BaseException) -> str:
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        return "interrupted; nothing is half-written"
    if isinstance(error, OSError) and (isinstance(error, OutputError) or error.errno in NO_ROOM):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room there, or write to another place"
    text = one_line(error)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text} (--debug shows where)"
