"""`hetsched bench --model`: rates of a real model's passes, under each strategy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetsched.cli import main

SMALL = ["-p", "6", "-n", "3", "-r", "2", "--gpu-memory", "50%"]


def test_every_strategy_is_two_rows(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(checkpoint), *SMALL, "--strategies", "static-frequency,cpu-only", "--json"]
    assert main(["bench", *asked]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "hetsched-bench-model/1"
    assert document["emulated"]
    assert document["format"] == "fp32"
    rows = document["rows"]
    assert [(row["strategy"], row["test"]) for row in rows] == [
        (strategy, test) for strategy in ("static-frequency", "cpu-only") for test in ("pp6", "tg3")
    ]
    assert all(row["tokens_per_s"] > 0 and row["lossless"] for row in rows)
    assert rows[0]["hit_rate"] > 0 == rows[2]["hit_rate"]


def test_on_a_cpu_it_is_the_walls_time(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["-p", "6", "-n", "3", "-r", "1"]
    assert main(["bench", "--model", str(checkpoint), *small, "--hardware", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "seconds of the wall" in shown
    assert "pp6" in shown
    assert "tg3" in shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hardware", "rtx-4090,t4"], "one machine"),
        (["--layers", "3"], "--layers belongs to another benchmark"),
        (["--strategies", "lfuu"], "unknown policy"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], told: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--model", str(checkpoint), *SMALL, *options]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
