"""The comparison of strategies, its command and its example."""

from __future__ import annotations

import math
import runpy
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest

from hetsched.cli import solve
from hetsched.dispatch.contest import contest
from hetsched.dispatch.problem import DispatchProblem, frozen
from hetsched.errors import InputError
from tests.cli.test_cli import call
from tests.documents import document_of
from tests.traces.made import saved

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare_solvers.py"


def two_experts() -> DispatchProblem:
    """Fetching both ends after 2.1 s, one after 2 s, none after 4 s."""
    columns = ([0.1, 0.1], [2.0, 2.0], [1.0, 1.0], [math.inf] * 2, [0.0, 0.0], [0.0, 0.0])
    return DispatchProblem(*(frozen(column) for column in columns))


def run(*arguments: str) -> int:
    """The verb as the command line calls it."""
    parser = ArgumentParser()
    solve.add_parser(parser.add_subparsers())
    args = parser.parse_args(["solve", *arguments])
    return int(args.run(args))


def test_ratios_are_against_the_optimum() -> None:
    """1 for the optimum, 4 / 2 and 2.1 / 2 for the simple rules; a strategy that cannot answer counts as failed."""
    rows = {row.solver: row for row in contest(["exact", "all-cpu", "all-fetch"], [two_experts()] * 3).rows()}
    assert rows["exact"].mean_ratio == rows["exact"].proved == 1.0
    assert rows["all-cpu"].worst_ratio == pytest.approx(2.0)
    assert rows["all-fetch"].mean_ratio == pytest.approx(1.05)
    assert rows["all-cpu"].proved == rows["all-cpu"].failures == 0


def test_a_strategy_without_answers_counts_failures() -> None:
    """brute refuses 20 experts; the incumbent stands in for it."""
    wide = DispatchProblem(
        *(frozen(np.ones(20)) for _ in range(3)), frozen(np.zeros(20)), frozen(np.zeros(20)), frozen([])
    )
    (row,) = contest(["brute"], [wide]).rows(["brute"])
    assert row.failures == 1
    assert row.mean_ratio == pytest.approx(2.0)  # half of the residents should have gone to the CPU


def test_json_is_the_contract(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One document, rows for every requested solver in order, and a plot on request."""
    plot = tmp_path / "quality.svg"
    assert run("--random", "12", "--solvers", "sort,exact,mathopt-highs", "--json", "--plot", str(plot)) == 0
    document = document_of(capfd.readouterr().out)
    assert (document["schema"], document["instances"]) == ("hetsched-solve/1", 12)
    assert [row["solver"] for row in document["rows"]] == ["sort", "exact", "mathopt-highs"]
    keys = {"solver", "mean_ratio", "worst_ratio", "proved", "median_s", "p99_s", "failures"}
    assert all(set(row) == keys for row in document["rows"])
    assert all(row["mean_ratio"] >= 1 - 1e-9 for row in document["rows"])
    assert plot.stat().st_size > 1000


def test_the_table_names_every_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    """For people: no JSON, a line for each."""
    assert run("--random", "3", "--solvers", "exact,sort", "--size", "5") == 0
    printed = capsys.readouterr().out
    assert "exact" in printed
    assert "sort" in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--random", "3", "--solvers", "exat"], "exact"),
        (["--random", "3", "--solvers", ","], "--solvers"),
        (["--random", "0"], "--random"),
        (["--random", "3", "--size", "-1"], "--size"),
        (["--random", "3", "--solvers", "exact,exact"], "named twice"),
        (["--random", "3", "--seed", "-1"], "--seed"),
        *((["--random", "3", "--time-limit", limit], "--time-limit") for limit in ("nan", "inf", "-1", "0")),
        (["--random", "3", "--hardware", "t4"], "--hardware belongs to --trace"),
        (["--random", "3", "--gpu-fraction", "0.25"], "--gpu-fraction belongs to --trace"),
        (["--trace", "nowhere.npz", "--size", "3"], "--size belongs to --random"),
        (["--trace", "nowhere.npz", "--gpu-fraction", "nan"], "--gpu-fraction"),
        (["--trace", "nowhere.npz"], "nowhere.npz"),
        (["--trace", "nowhere.npz", "--hardware", "rtx-4070-desktop"], "rtx"),
    ],
)
def test_bad_usage_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    """Exit code 2, before any problem is solved."""
    code, out, err = call(capsys, "solve", *arguments)
    assert (code, out) == (2, "")
    assert named in err.splitlines()[-1]


@pytest.mark.parametrize("limit_s", [math.nan, math.inf, 0.0, -1.0])
def test_a_time_limit_is_a_positive_number(limit_s: float) -> None:
    with pytest.raises(InputError, match="time limit"):
        contest(["sort"], [two_experts()], limit_s)


def test_the_geometry_is_that_of_the_trace(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The model that the trace names, or the one given; another shape is refused with both, never taken for it."""
    shape = {"layers": 26, "experts": 64, "top_k": 6}  # DeepSeek-V2-Lite's
    options = ["--solvers", "sort", "--instances", "3"]
    named = str(saved(tmp_path / "n.npz", **shape, meta={"model": "deepseek-ai/DeepSeek-V2-Lite"}))
    assert run("--trace", named, *options, "--json") == 0
    document = document_of(capfd.readouterr().out)
    assert (document["model"], document["hardware"]) == ("deepseek-v2-lite", "rtx-4060-laptop-8gb")
    silent = str(saved(tmp_path / "s.npz", **shape))
    for arguments in (["--trace", silent], ["--trace", named, "--model", "gpt-oss-20b"]):
        with pytest.raises(InputError, match=r"26 MoE layers of 64 experts, gpt-oss-20b has 24 of 32"):
            run(*arguments, *options)
    assert run("--trace", silent, "--model", "deepseek-v2-lite", *options) == 0


def test_the_example_is_short_and_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 60 lines, and exact comes out at zero."""
    assert len(EXAMPLE.read_text().splitlines()) < 60
    monkeypatch.setattr("sys.argv", [str(EXAMPLE)])
    example = runpy.run_path(str(EXAMPLE))
    example["STRATEGIES"][:] = ["exact", "sort"]
    example["main"]()
    printed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert " 0.000 " in printed["exact"]
