"""A terminal or pipe that takes ASCII alone: no error anywhere, a plain sign for each of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hetsched.cli import VERBS
from hetsched.report.encoding import PLAIN
from tests.report.screens import all_piped, environment, piped, small_trace

ASCII = {"PYTHONIOENCODING": "ascii"}


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    trace = small_trace(tmp_path_factory.mktemp("traces"))
    return ["--trace", str(trace), "--model", "demo", "--hardware", "t4", "--decision", "2e-5", "--bound-windows", "1"]


def test_every_help_in_one_process() -> None:
    """All verbs, through the stream's own encoder."""
    code = (
        "from hetsched.cli import VERBS, main\n"
        "for verb in VERBS:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as left: assert not left.code, verb\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(**ASCII), check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout.count(b"usage: hetsched") == len(VERBS)
    ran.stdout.decode("ascii")


def test_tables_and_errors(replay: list[str]) -> None:
    """Bars, dots, µ and lanes have signs of one column each, so that the columns stay straight."""
    asked = (
        ["compare", *replay, "--strategies", "hetsched,cpu-only"],
        ["simulate", *replay],
        ["profiles", "show", "rtx-3090"],
        ["doctor"],
        ["solve", "--random", "2", "--solvers", "exact,sort"],
    )
    for words, text, plain in zip(asked, all_piped(*asked), all_piped(*asked, **ASCII), strict=True):
        assert plain.isascii()
        assert "?" not in plain.replace("? deciding", "") or words[0] == "simulate"  # which draws with it
        if words[0] in ("compare", "profiles"):  # the same figures twice
            assert plain == "".join(c if c.isascii() else PLAIN[c] for c in text)


def test_an_error_names_what_it_cannot_spell(tmp_path: Path) -> None:
    _, said = piped("profiles", "show", "größe", code=2, **ASCII)
    assert said.startswith("hetsched: unknown machine or model 'gr??e'")


def test_json_loses_nothing(tmp_path: Path) -> None:
    """A document is the same to its reader, whatever the stream takes."""
    asked = ("profiles", "show", "rtx-4060-laptop-8gb", "--json")
    assert json.loads(piped(*asked, **ASCII)[0]) == json.loads(piped(*asked)[0])
