"""`hetsched completion`: a script that lets a shell complete verbs, options, names and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from ..errors import MissingDependencyError
from ..machine import gallery
from ..plugins import installed
from .parser import Parser
from .paths import NewFolder, PathOption

EXAMPLES: tuple[str, ...] = (
    "hetsched completion bash > ~/.local/share/bash-completion/completions/hetsched",
    "hetsched completion zsh > ~/.zfunc/_hetsched",
    "hetsched completion fish > ~/.config/fish/completions/hetsched.fish",
)
SHELLS = ("bash", "zsh", "fish")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "print a script that lets a shell complete verbs, options, names and files"
    parser = subparsers.add_parser("completion", help=text, description=text)
    parser.add_argument("shell", type=str.lower, choices=SHELLS, help="whose script")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script; 0."""
    try:
        import shtab
    except ModuleNotFoundError:
        raise MissingDependencyError("shtab", "hetsched completion", "pip install shtab") from None
    from . import _parser

    parser = _parser()
    names = {group: installed(f"hetsched.{group}") for group in ("policies", "solvers", "forecasters")}
    known: dict[str, Iterable[str]] = {"hardware": gallery.machines()}
    known |= {"policy": names["policies"], "solver": names["solvers"], "forecaster": names["forecasters"]}
    for action in _actions(parser):
        if isinstance(action, PathOption):
            action.complete = shtab.DIR if isinstance(action, NewFolder) else shtab.FILE  # type: ignore[attr-defined]
        elif action.choices is None and action.option_strings and action.dest in known:
            action.choices = sorted(known[action.dest])  # of this parser, which only the script is made of
    print(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: Parser) -> list[argparse.Action]:
    """Options and arguments of a parser and of all those beneath it."""
    return [*parser._actions, *(action for verb in parser.verbs().values() for action in _actions(verb))]
