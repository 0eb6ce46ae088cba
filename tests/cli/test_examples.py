"""Examples of --help: every verb has some, all of them are understood, and the quick ones run."""

from __future__ import annotations

import argparse
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from hetsched.cli import VERBS, _parser, main
from hetsched.cli.parser import Parser
from tests.report.test_parser import ALL

EXAMPLES = [(verb, line) for verb in VERBS for line in import_module(f"hetsched.cli.{verb}").EXAMPLES]
IN_TURN = ("trace synth", "trace info", "trace split", "trace concat", "trace speculate", "profiles")  # each in seconds
LEAVES = [p for p in ALL if not any(isinstance(action, argparse._SubParsersAction) for action in p._actions)]


@pytest.mark.parametrize(("verb", "line"), EXAMPLES, ids=lambda text: text)
def test_every_example_is_understood(verb: str, line: str) -> None:
    program, *words = shlex.split(line.partition(" > ")[0])
    assert (program, words[0]) == ("hetsched", verb)
    assert callable(_parser().parse_args(words).run)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_two_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for name, line in EXAMPLES if name == verb]
    assert len(set(lines)) == len(lines) >= 2
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out.partition("\nexamples:\n")[2].splitlines()
    assert shown == [f"  {line}" for line in lines]


@pytest.mark.parametrize("parser", LEAVES, ids=lambda parser: parser.prog)
def test_verbs_of_verbs_have_their_own(parser: Parser) -> None:
    """Of the verb's examples, those that use it."""
    assert parser.examples
    assert all(line.split()[: len(parser.prog.split())] == parser.prog.split() for line in parser.examples)


def test_quick_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one writes the next one reads."""
    monkeypatch.chdir(tmp_path)
    lines = [line for part in IN_TURN for _, line in EXAMPLES if line.startswith(f"hetsched {part} ")]
    codes = {line: main(shlex.split(line)[1:]) for line in lines}
    assert len(codes) > 10
    assert {line for line, code in codes.items() if code} <= {line for line in lines if " diff " in line}
    assert capsys.readouterr().out
