"""Who may write where while solvers run, and what is shown while a benchmark measures."""

from __future__ import annotations

import os
import sys

import pytest

from hetsched.cli.replaying import libraries_silenced
from tests.report.screens import ESCAPES, on_terminal


def test_what_libraries_print_is_gone_and_what_python_says_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    """A line past Python is nobody's; Python's own go to standard error; afterwards all is as before."""
    with libraries_silenced():
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n")
        print("a plug-in's own line")
        print("an error", file=sys.stderr)
    print("the document")
    said = capfd.readouterr()
    assert said.out == "the document\n"
    assert said.err == "a plug-in's own line\nan error\n"


def test_standard_output_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="passes"), libraries_silenced():
        raise RuntimeError("passes")
    os.write(1, b"back\n")
    assert capfd.readouterr().out == "back\n"


BENCH = """
import sys
from hetsched.cli import main
if sys.argv[1:] != ["bare"]:
    from hetsched.bench import cpu_models, cpu_only
    from tests.conftest import tiny_moe
    cpu_only.subjects = lambda: [cpu_models.Subject("tiny", "fp32", tiny_moe)]
    cpu_only.PHASES = (("decode", 1), ("prefill", 24))
    cpu_only.MAX_ROUNDS = 3
sys.exit(main(["bench", "--cpu-only"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_bench_cpu_says_what_it_measures() -> None:
    """Before torch is there, then every row by its number; the table comes last, its headings and figures whole."""
    shown = ESCAPES.sub("", on_terminal(80, "-c", BENCH, errors=True))
    places = [shown.index(part) for part in ("starting torch", "1 of 2: tiny, fp32", "2 of 2: tiny", "Forward passes")]
    assert places == sorted(places)
    table = shown[shown.index("Forward passes") :]
    assert "…" not in table
    assert max(len(line) for line in table.splitlines()) <= 80
    for phase in ("decode 1", "prefill 24"):
        (line,) = [line for line in table.splitlines() if phase in line]
        assert len(line.split(phase)[1].split()) >= 5
