"""The command line never shows a lossy figure without saying so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from hetsched.cli import main
from hetsched.cli.verify_perplexity import compared, decode_losses, text_rows
from tests.conftest import tiny_moe
from tests.documents import document_of

MACHINE = ("--hardware", "rtx-4060-laptop-8gb", "--time-scale", "1")
WORDS = "the sea was calm the sea was word1 word2 word3 calm the"


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_run_is_labelled(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ("run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "3", *MACHINE)
    argv = (*argv, "--gpu-memory", "30%")
    _, _, err = call(capsys, *argv, "--gpu-precision", "int4")
    lines = [line for line in err.splitlines() if "rtx-4060" in line or "tokens/s" in line]
    assert len(lines) == 3
    assert all(line.startswith("LOSSY, int4 experts on the GPU: ") for line in lines)
    assert "LOSSY" not in call(capsys, *argv)[2]
    document = document_of(call(capsys, *argv, "--gpu-precision", "int4", "--json")[1])
    assert (document["lossless"], document["gpu_precision"]) == (False, "int4")
    document = document_of(call(capsys, *argv, "--json")[1])
    assert (document["lossless"], document["gpu_precision"]) == (True, "exact")


def test_verify_compares_tokens_only_where_they_must_be_the_same(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    code, _, err = call(capsys, "verify", "--model", str(checkpoint), "--gpu-precision", "int8")
    assert code == 2
    assert "add --perplexity" in err
    code, _, err = call(capsys, "verify", "--model", str(checkpoint), "--perplexity")
    assert code == 2
    assert "add --gpu-precision" in err


def test_verify_reports_the_perplexity_of_both(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ("verify", "--model", str(checkpoint), "--prompt", WORDS, "--perplexity", "12", *MACHINE)
    argv = (*argv, "--gpu-memory", "10%,100%", "--gpu-precision", "int4", "--policy", "static-frequency")
    code, out, _ = call(capsys, *argv, "--json")
    document = document_of(out)
    assert code == 0
    assert document["schema"] == "hetsched-perplexity/1"
    assert document["tokens"] == 11
    assert [row["gpu_memory"] for row in document["rows"]] == ["10%", "100%"]
    for row in document["rows"]:
        assert row["lossless"] is False
        assert row["gpu_precision"] == "int4"
        change = 100 * (row["perplexity_lossy"] / row["perplexity_exact"] - 1)
        assert row["change_percent"] == pytest.approx(change)
        assert row["change_percent"] != 0
    assert 0 < document["rows"][0]["lossy_share"] < document["rows"][1]["lossy_share"] == 1
    code, out, _ = call(capsys, *argv)
    assert code == 0
    assert out.count("LOSSY, int4 experts on the GPU: perplexity") == 2


def test_reading_token_by_token_gives_the_loss_of_one_pass() -> None:
    """The cached decode loop against the model's own loss over the whole row."""
    model, row = tiny_moe(), list(range(5, 25))
    ids = torch.tensor([row])
    with torch.inference_mode():
        expected = float(model(ids, labels=ids).loss)
    losses = decode_losses(model, row)
    assert len(losses) == 19
    assert math.fsum(losses) / 19 == pytest.approx(expected, rel=1e-4)


def test_the_change_and_its_error() -> None:
    """Losses of 1 and 3 nats that become 1.1 and 3.3: perplexity e^2 to e^2.2, the difference 0.2 ± 0.1."""
    found = compared([1.0, 3.0], [1.1, 3.3])
    assert found["perplexity_exact"] == pytest.approx(math.exp(2))
    assert found["change_percent"] == pytest.approx(100 * (math.exp(0.2) - 1))
    assert found["change_stderr_percent"] == pytest.approx(100 * math.exp(0.2) * 0.1)


def test_texts_have_the_tokens_asked_for(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = text_rows(tokenizer, None, 300)
    assert [len(row) for row in rows] == [256, 44]
