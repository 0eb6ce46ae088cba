"""README's and the documentation's code is run as it stands, and its command lines are understood.

Python blocks of a file run one after another in one module, in a folder in which `path/to/an-moe-model` is a tiny
model and `trace.npz` recorded-looking routing. Of shell blocks and code spans every `hetsched ...` is parsed by the
command's own parser, up to the names of files.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import shutil
from argparse import _SubParsersAction
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from hetsched.cli import VERBS, _parser
from hetsched.traces.synth import SynthParams, synthesise

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`(hetsched [^`]+)`(?!`)")
LANGUAGES = ("python", "sh", "", "toml", "yaml", "json", "text")


class Block(NamedTuple):
    """A fenced block: its language and the number of its first line, from 1."""

    language: str
    line: int
    code: str


def blocks(text: str) -> list[Block]:
    return [Block(m[1].strip(), text.count("\n", 0, m.start(2)) + 1, m[2]) for m in BLOCK.finditer(text)]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def command_lines(text: str) -> Iterator[str]:
    """Every `hetsched ...` of shell blocks, lines that end in a backslash joined, comments apart."""
    for block in blocks(text):
        if block.language in ("", "sh"):
            joined = re.sub(r"\s*\\\n\s*", " ", block.code)
            yield from (line for line in joined.splitlines() if line.startswith("hetsched "))


def words_of(line: str) -> list[str]:
    """The arguments, up to where the output goes."""
    words = shlex.split(line, comments=True)[1:]
    return list(itertools.takewhile(lambda word: word not in (">", "|"), words))


def spans(text: str) -> Iterator[list[str]]:
    """The same in running text and tables, where `[--option]`, `...` and `a|b` stand for what is up to the reader."""
    for span in SPAN.findall(BLOCK.sub("", text)):
        yield re.sub(r"[\[\]]|\.\.\.", " ", span).split()[1:]


parser = functools.cache(_parser)  # parsing changes nothing in it


def options_of(words: list[str]) -> list[str]:
    """Options among the words of a code span that its verb, or its sub-verb, does not have."""
    known = parser()
    for word in words:
        below = next((action for action in known._actions if isinstance(action, _SubParsersAction)), None)
        if below is None or word not in below.choices:
            break
        known = below.choices[word]
    named = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [option for option in named if option not in known._option_string_actions]


@pytest.fixture
def ground(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the code of a page finds itself in; torch.compile traces graphs there and compiles none."""
    import torch

    shutil.copytree(checkpoint, tmp_path / "path/to/an-moe-model")
    shape = {"layers": 24, "experts": 32, "top_k": 4, "tokens": 120, "sequences": 4}
    synthesise(SynthParams.uniform(**shape, skew=1.1, locality=0.25, drift=0.45), seed=0, path=tmp_path / "trace.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    return tmp_path


@pytest.mark.parametrize("name", [name for name in FILES if any(b.language == "python" for b in blocks(read(name)))])
def test_python_code_runs(name: str, ground: Path) -> None:
    """Whole pages, top to bottom, as a reader would paste them; errors name the line of the page."""
    page = ModuleType("page")
    for block in blocks(read(name)):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(ROOT / name), "exec")
            exec(code, page.__dict__)


@pytest.mark.parametrize("name", FILES)
def test_command_lines_are_understood(name: str) -> None:
    """By the parser of the command line: verbs, options and values are what they are taken for."""
    for line in command_lines(read(name)):
        parser().parse_args(words_of(line))


@pytest.mark.parametrize("name", FILES)
def test_commands_in_the_text_exist(name: str) -> None:
    """A verb in a code span is one, and has the options that are named with it."""
    for words in spans(read(name)):
        assert words[0] in VERBS or words[0].startswith("-"), words
        assert options_of(words) == [], words


@pytest.mark.parametrize("name", FILES)
def test_blocks_say_what_they_are(name: str) -> None:
    """A block of another language would be run by nobody, as a block that is indented would."""
    text = read(name)
    assert [b.language for b in blocks(text) if b.language not in LANGUAGES] == []
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(blocks(text))


def test_there_is_code_to_run() -> None:
    """The checks see the blocks: README alone has both kinds, pages of plug-ins have a class each."""
    assert sum(block.language == "python" for name in FILES for block in blocks(read(name))) >= 8
    assert sum(1 for name in FILES for _ in command_lines(read(name))) >= 10
    assert options_of(["compare", "--trace", "--no-such-option=3"]) == ["--no-such-option"]
    assert next(command_lines("```sh\nhetsched demo \\\n  --json # why\n```")) == "hetsched demo --json # why"
