"""`hetsched run --speculate`: the same text, what came of the drafts, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hetsched.cli import main
from tests.documents import document_of

MACHINE = ["--hardware", "rtx-4060-laptop-8gb", "--time-scale", "1", "--gpu-memory", "25%"]


def argv(folder: Path, *more: str) -> list[str]:
    return ["run", "--model", str(folder), "--prompt", "the sea was calm", "--max-new-tokens", "12", *MACHINE, *more]


def ran(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> dict[str, Any]:
    assert main(argv(folder, "--json", *more)) == 0
    document: dict[str, Any] = document_of(capsys.readouterr().out)
    return document


def test_the_text_is_the_same_and_the_drafts_are_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None, "pad_token_id": 0}))
    plain = ran(capsys, folder)
    assert plain["speculation"] is None
    for draft, k in (("self", "3"), ("prompt-lookup", "auto"), (str(folder), "2")):
        drafted = ran(capsys, folder, "--speculate", k, "--draft", draft)
        facts = drafted["speculation"]
        assert drafted["text"] == plain["text"]
        assert drafted["tokens"] == plain["tokens"] == 1 + facts["steps"] + facts["accepted"]
        assert drafted["tokens_per_s"] == facts["tokens_per_s"] > 0
        assert {"acceptance", "mean_k", "go_share"} <= set(facts)
    assert facts["draft"] == "model"
    assert facts["acceptance"] == 1.0
    assert main(argv(folder, "--speculate", "2", "--draft", "SELF")) == 0
    assert "speculation by self, 2: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--draft", "self"], "--draft belongs to --speculate, which is off; add --speculate auto, or drop it"),
        (["--speculate", "64"], "nor a number from 0 to 63"),
        (["--speculate", "many"], "neither auto, off nor a number"),
        (["--speculate", "2", "--draft", "nowhere"], "neither prompt-lookup, self nor a checkpoint folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    options: list[str], why: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(argv(checkpoint, *options))
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 2
    assert why in capsys.readouterr().err
