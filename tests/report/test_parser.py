"""The command line's own behaviour: help, version, usage errors, --debug, and help texts that tell the truth."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetsched import __version__
from hetsched.cli import _parser, main
from hetsched.errors import InputError
from tests.report.screens import on_terminal, piped


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all those beneath it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in {id(p): p for p in action.choices.values()}.values():
                yield from parsers(child)


ALL = list(parsers(_parser()))
OPTIONS = [
    (parser, action)
    for parser in ALL
    for action in parser._actions
    if action.option_strings and action.nargs != 0 and action.default not in (None, "", argparse.SUPPRESS)
]

ODD_VALUES = ("--", "-", "=", "--=", "%", "%s%(prog)s", "\udcff", "'", "{}", "-1", "9" * 5000, "[red]", "")


def test_bare_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: hetsched")
    assert said.err == ""


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    """From the package run as a module."""
    assert piped(option) == (f"hetsched {__version__}\n", "")


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_every_verb_has_the_version(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever else it asks for."""
    with pytest.raises(SystemExit) as left:
        main([*parser.prog.split()[1:], "--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"hetsched {__version__}\n"


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_no_value_breaks_the_parser(parser: argparse.ArgumentParser) -> None:
    """It is taken or refused in one line."""
    for option in (
        action.option_strings[-1] for action in parser._actions if action.option_strings and action.nargs != 0
    ):
        for value in ODD_VALUES:
            with contextlib.suppress(InputError):
                parser.parse_args([f"{option}={value}"])


@pytest.mark.parametrize(
    ("arguments", "verb", "message"),
    [
        (["nothing"], "hetsched", "invalid choice: 'nothing'"),
        (
            ["solve", "--random", "many"],
            "hetsched solve",
            "argument --random: 'many' is not a whole number from 1 to 1000000",
        ),
        (["profiles"], "hetsched profiles", "the following arguments are required: VERB"),
        (["profiles", "diff", "t4"], "hetsched profiles diff", "required: second"),
        (["compare", "--trace", "x"], "hetsched compare", "required: --model, --hardware"),
        (["doctor", "--no\nsuch"], "hetsched doctor", "unrecognized arguments: --no such"),
        (["doctor", "more"], "hetsched doctor", "unrecognized arguments: more"),
        (["--versoin"], "hetsched", "unrecognized arguments: --versoin: did you mean '--version'?"),
        (["compar"], "hetsched", "invalid choice: 'compar': did you mean 'compare'? (choose from demo, run,"),
        (["trace", "inof"], "hetsched trace", "did you mean 'info'?"),
        (["run", "--modle", "demo"], "hetsched run", "unrecognized arguments: --modle: did you mean '--model'?"),
        (["run", "--model", "demo", "--polcy=x"], "hetsched run", "--polcy=x: did you mean '--policy'?"),
        (["solve", "--random", "3", "--phase", "prefil"], "hetsched solve", "did you mean 'prefill'? (choose from"),
        (["solve", "--random", "3", "--zzz"], "hetsched solve", "unrecognized arguments: --zzz; see"),
        (["profile", "--dtype=--"], "hetsched profile", "argument --dtype: '--' is no value"),
        (["bench", "--model", "demo", "-p--"], "hetsched bench", "argument -p: '--' is no value"),
    ],
)
def test_a_usage_error_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], verb: str, message: str
) -> None:
    """What, and where to read on; exit 2, nothing on standard output."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("hetsched: ")
    assert message in line
    assert line.endswith(f"; see '{verb} --help'")


@pytest.mark.parametrize(
    "arguments",
    [
        ["profiles", "show", "nosuch", "--debug"],
        ["profiles", "--debug", "show", "nosuch"],
        ["--debug", "profiles", "show", "nosuch"],
        ["trace", "info", "/no/such/file.npz", "--debug"],
        ["solve", "--debug", "--random", "0"],
    ],
)
def test_debug_works_at_every_place(arguments: list[str]) -> None:
    """The error itself comes up, which Python shows with its traceback."""
    with pytest.raises(ValueError):
        main(arguments)
    assert main([a for a in arguments if a != "--debug"]) == 2


def test_model_build_takes_debug(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError):
        main(["model", "build", "--out", str(tmp_path), "--debug"])


def test_options_are_called_alike() -> None:
    """One name a thing: files to write are -o too, lists look like lists, and old names are not shown."""
    shown = [(p, a) for p in ALL for a in p._actions if a.option_strings and a.help != argparse.SUPPRESS]
    names = {name for _, action in shown for name in action.option_strings}
    assert not names & {"--dtype", "--strategy", "--num-experts", "--overhead", "--output", "--gpu-mem", "--no-json"}
    assert {tuple(a.option_strings) for _, a in shown if "--out" in a.option_strings} == {("-o", "--out")}
    for name, kind in (("--json", "store_true"), ("--seed", "N"), ("--trace", "FILE"), ("--max-new-tokens", "N")):
        found = [action for _, action in shown if name in action.option_strings]
        assert {action.metavar or "store_true" for action in found} == {kind}
        assert len(found) > 1
    assert {p.prog for p, a in shown if "," in str(a.metavar) and "[," not in str(a.metavar)} <= {
        "hetsched compare",  # --drafts 1,2,4,auto
        "hetsched profile",  # --geometry hidden=N,ffn=N
        "hetsched trace import",  # --columns layer=NAME,...
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["simulate", "--strategy", "x"], ["simulate", "--policy", "x"]),
        (["compare", "--dtype=int4"], ["compare", "--format=int4"]),
        (["trace", "import", "log", "--num-experts", "4"], ["trace", "import", "log", "--experts", "4"]),
        (["bench", "--overhead"], ["bench", "--engine-overhead"]),
        (["bench", "--replay"], ["bench", "--replay-speed"]),
        (["bench", "--cpu"], ["bench", "--cpu-only"]),
        (
            ["trace", "split", "t.npz", "--at", "0.5", "-o", "a", "b"],
            ["trace", "split", "--at", "50%", "--out", "a", "b", "t.npz"],
        ),
    ],
    ids=str,
)
def test_old_names_are_understood(old: list[str], new: list[str]) -> None:
    needed = ["--trace", "t", "--model", "m", "--hardware", "h"] if old[0] in ("simulate", "compare") else []
    needed = ["--out", "o"] if old[1] == "import" else needed
    parsed = [vars(_parser().parse_args([*words, *needed])) for words in (old, new)]
    assert [{k: v for k, v in one.items() if k not in ("paths", "given")} for one in parsed] == [
        {k: v for k, v in parsed[0].items() if k not in ("paths", "given")}
    ] * 2


def test_no_colour_where_none_is_wanted() -> None:
    """NO_COLOR, on a terminal: bold at most."""
    told = "import os; {}from hetsched.cli import main; main(['profiles', 'list']); main(['doctor'])"
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;)[\d;]*m")
    assert colour.search(on_terminal(100, "-c", told.format("")))
    assert not colour.search(on_terminal(100, "-c", told.format("os.environ['NO_COLOR'] = '1'; ")))


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_every_option_is_explained(parser: argparse.ArgumentParser) -> None:
    """No argument without a text, but files that speak for themselves."""
    silent = [a.dest for a in parser._actions if not a.help and not isinstance(a, argparse._SubParsersAction)]
    assert set(silent) <= {"file", "files"}


@pytest.mark.parametrize(("parser", "action"), OPTIONS, ids=lambda x: getattr(x, "prog", getattr(x, "dest", None)))
def test_help_gives_the_true_default(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """What the text says is what the parsed option is."""
    assert action.help is not None
    formatter = parser._get_formatter()
    text = formatter._expand_help(action)
    (said,) = re.findall(r"\(default: ([^)]*)\)", text) or [""]
    default = action.default
    value = (
        f"{default[0]:g}" if isinstance(default, list) else f"{default:g}" if isinstance(default, float) else default
    )
    assert said.strip("'").split(",")[0].startswith(str(value).split(",")[0])


def test_the_time_scale_is_attachs() -> None:
    from hetsched.accelerators.emulated.device import DEFAULT_SCALE
    from hetsched.cli.attaching import ATTACH_TIME_SCALE

    assert ATTACH_TIME_SCALE == DEFAULT_SCALE
    scales = {p.prog: p.get_default("time_scale") for p in ALL if p.get_default("time_scale") is not None}
    assert scales == {"hetsched demo": 4.0, "hetsched run": 20.0, "hetsched serve": 20.0, "hetsched verify": 1.0}
