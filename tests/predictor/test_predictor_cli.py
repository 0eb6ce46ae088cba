"""The verbs train, eval and info: documents, tables, one line for every error; and the forecaster by name and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetsched.errors import InputError
from hetsched.plugins import installed, plugin
from hetsched.policies.utility import Utility
from hetsched.predictor.learned import Learned
from hetsched.predictor.training import Options, train
from tests.cli.test_cli import call
from tests.documents import document_of
from tests.predictor.made import hinted, mixed, saved


def test_the_three_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, score beside others, look at it: one JSON document each, and tables."""
    trace, out = str(saved(tmp_path / "t.npz", mixed(400))), str(tmp_path / "p.safetensors")
    verb = ["predictor", "train", "--trace", trace, "--out", out, "--epochs", "2"]
    code, text, _ = call(capsys, *verb, "--json")
    told = document_of(text)
    assert code == 0
    assert (told["schema"], told["architecture"], told["split_by"]) == (
        "hetsched-predictor-train/1",
        "compact",
        "sequences",
    )
    code, text, _ = call(capsys, "predictor", "eval", "--trace", trace, "--predictor", out, "--json")
    scored = document_of(text)
    assert scored["schema"] == "hetsched-predictor-eval/1"
    assert [row["forecaster"] for row in scored["rows"]] == ["learned", "ewma", "transition"]
    keys = {"recall", "precision", "f1_positive", "f1_macro", "log_score", "calibration_error"}
    assert all(keys <= set(row) and row["tokens"] == 200 for row in scored["rows"])
    code, text, _ = call(capsys, "predictor", "info", out, "--json")
    info = document_of(text)
    assert info["schema"] == "hetsched-predictor-info/1"
    assert 0 < info["forecast_s"] < 1
    for argv in (["info", out], ["eval", "--trace", trace, "--predictor", out, "--max-tokens", "20"]):
        code, text, _ = call(capsys, "predictor", *argv)
        assert code == 0
        assert "compact" in text
    assert "20 held-out tokens" in text


def test_one_sequence_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = str(saved(tmp_path / "t.npz", mixed(800, 1))), str(tmp_path / "p")
    code, text, _ = call(capsys, "predictor", "train", "--trace", trace, "--out", out, "--epochs", "1")
    assert code == 0
    assert "the trace had one sequence: its last tokens were held out" in text


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = str(saved(tmp_path / "t.npz", mixed(400)))
    other = str(saved(tmp_path / "o.npz", mixed(400, 10)))
    seeing = str(tmp_path / "seeing")
    train(hinted(400), seeing, Options(epochs=1, width=16, hidden=True))
    cases = [
        (["eval", "--trace", trace, "--predictor", trace], "is no predictor"),
        (["eval", "--trace", other, "--predictor", seeing], "needs hidden states of 12 numbers"),
        (["info", str(tmp_path / "absent")], "cannot read"),
        (["train", "--trace", trace, "--out", trace], "is an input"),
        (["train", "--trace", trace, "--out", str(tmp_path / "p"), "--hidden"], "record it with"),
        (["train", "--trace", trace, "--out", str(tmp_path / "p"), "--minutes", "0"], "outside"),
    ]
    for argv, told in cases:
        code, out, err = call(capsys, "predictor", *argv)
        assert (code, out) == (2, "")
        assert told in err
        assert err.count("\n") == 1


def test_a_forecaster_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "learned+predictor=FILE" wherever forecasters are named, and the variable in its place."""
    from importlib.metadata import EntryPoint

    known = {"learned": EntryPoint("learned", "hetsched.predictor.learned:Learned", "hetsched.forecasters")}
    monkeypatch.setattr("hetsched.plugins.installed", lambda group: {**installed(group), **known})
    path = tmp_path / "p.safetensors"
    train(mixed(400), path, Options(epochs=1, width=16))
    assert isinstance(plugin("hetsched.forecasters", f"learned+predictor={path}"), Learned)
    assert isinstance(Utility(forecaster=f"learned+predictor={path}").forecaster, Learned)
    with pytest.raises(InputError, match="absent"):
        plugin("hetsched.forecasters", f"learned+predictor={tmp_path / 'absent'}")
    monkeypatch.setenv("HETSCHED_PREDICTOR", str(path))
    assert isinstance(Utility(forecaster="learned").forecaster, Learned)
    assert plugin("hetsched.forecasters", "hetsched.predictor.learned:Learned") is Learned
