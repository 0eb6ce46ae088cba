"""`hetsched bench --model`: rates of a real model's passes, under each strategy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hetsched.cli import main
from hetsched.report.bench_model_view import model_markdown
from tests.documents import document_of
from tests.loading.made_packed import made_packed

SMALL = ["-p", "6", "-n", "3", "-r", "2", "--gpu-memory", "50%"]


def test_every_strategy_is_two_rows(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(checkpoint), *SMALL, "--strategies", "static-frequency,cpu-only", "--json"]
    assert main(["bench", *asked]) == 0
    document = document_of(capsys.readouterr().out)
    assert document["schema"] == "hetsched-bench-model/1"
    assert document["emulated"]
    assert document["format"] == "fp32"
    rows = document["rows"]
    strategies = ("static-frequency", "cpu-only", "transformers eager")
    assert [(row["strategy"], row["test"]) for row in rows] == [
        (strategy, test) for strategy in strategies for test in ("pp6", "tg3")
    ]
    assert [row["clock"] for row in rows] == ["emulated"] * 4 + ["measured"] * 2
    assert all(row["tokens_per_s"] > 0 and row["lossless"] and len(row["samples"]) == 2 for row in rows)
    assert rows[0]["hit_rate"] > 0 == rows[2]["hit_rate"]
    assert document["weights_bytes"] == pytest.approx(4 * document["params"], rel=0.01)
    assert document["weights_bytes"] > document["expert_bytes"]


def test_seconds_hold_decisions_and_the_engine(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On an emulated machine too, whose lanes know neither."""
    asked = ["--model", str(checkpoint), *SMALL, "--strategies", "hetsched", "--json"]
    assert main(["bench", *asked]) == 0
    rows = document_of(capsys.readouterr().out)["rows"]
    for row in rows[:2]:
        assert row["decision_s_per_token"] > 0 < row["host_s_per_token"]
        assert 1 / min(row["samples"]) > row["host_s_per_token"]
    assert {row["host_s_per_token"] for row in rows[2:]} == {0.0}


def test_on_a_cpu_it_is_the_walls_time(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one table, transformers' eager in it."""
    small = ["-p", "6", "-n", "3", "-r", "1"]
    assert main(["bench", "--model", str(checkpoint), *small, "--hardware", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Measured, seconds of the wall") == 1
    assert "Emulated" not in shown
    assert [line.split()[-4] for line in shown.splitlines() if "±" in line and "fp32" in line] == ["pp6", "tg3"] * 2


def test_markdown_has_llama_benchs_columns(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Emulated and measured speeds in tables of their own."""
    assert main(["bench", "--model", str(checkpoint), *SMALL, "--strategies", "hetsched", "--markdown"]) == 0
    emulated, measured = capsys.readouterr().out.split("**Measured, seconds of the wall**")
    assert emulated.startswith("**Emulated seconds, rtx-4060-laptop-8gb**\n")
    for table, backend in ((emulated, "(emulated), hetsched"), (measured, "cpu, transformers eager")):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert lines[0] == "| model | size | params | backend | test | t/s |"
        assert [line.split(" | ")[4] for line in lines[2:]] == ["pp6", "tg3"]
        assert all(backend in line and re.search(r"\d\.\d\d ± \d+\.\d\d \|$", line) for line in lines[2:])


def test_lossy_speeds_stand_apart(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a table that says so."""
    asked = ["--model", str(checkpoint), *SMALL, "--strategies", "hetsched", "--json"]
    assert main(["bench", *asked]) == 0
    document = document_of(capsys.readouterr().out)
    document["rows"][1]["lossless"] = False
    tables = model_markdown(document).split("**Emulated seconds, rtx-4060-laptop-8gb; LOSSY**")
    assert "pp6" in tables[0]
    assert "tg3" not in tables[0]


def test_no_eager_row_of_packed_experts(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report says why."""
    made_packed(tmp_path, "int4-32")
    for path in checkpoint.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "packed")
    assert main(["bench", "--model", str(tmp_path / "packed"), *SMALL, "--strategies", "hetsched"]) == 0
    shown = capsys.readouterr().out
    assert "transformers eager" not in shown
    assert "no row of transformers' eager: its experts are packed" in shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hardware", "rtx-4090,t4"], "one machine"),
        (["--layers", "3"], "--layers belongs to --engine-overhead and --log-cost; drop it"),
        (["--strategies", "lfuu"], "unknown policy"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], told: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--model", str(checkpoint), *SMALL, *options]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
