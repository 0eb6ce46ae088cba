"""Ids on the hub: fetched once, found in the cache without a network, and refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import hetsched
from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.loading import hub
from hetsched.loading.hub import UNWANTED, WANTED, located, shown_name
from hetsched.traces.trace import load_trace

RUN = ["--prompt", "the sea", "--max-new-tokens", "2", "--hardware", "cpu"]


@pytest.fixture
def cached(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny checkpoint in a hub cache, as someone/tiny-moe, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--someone--tiny-moe"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    return repository / "snapshots" / commit


def test_what_is_cached_needs_no_network(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, handle = hetsched.load("someone/tiny-moe", progress=True, hardware="cpu")
    with handle:
        assert "someone/tiny-moe: " in capsys.readouterr().err
        assert model.name_or_path == str(cached)
        assert model(torch.arange(5, 9)[None]).logits.isfinite().all()


def test_traces_name_the_id(cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts").write_text("the sea")
    argv = ["--prompts", str(tmp_path / "prompts"), "--out", str(tmp_path / "trace.npz"), "--max-new-tokens", "2"]
    assert main(["trace", "record", "--model", "someone/tiny-moe", *argv]) == 0, capsys.readouterr().err
    assert load_trace(tmp_path / "trace.npz").meta["model"] == "someone/tiny-moe"


@pytest.mark.parametrize("verb", [["run", *RUN], ["verify", "--max-new-tokens", "2"]])
def test_verbs_take_ids(capsys: pytest.CaptureFixture[str], cached: Path, verb: list[str]) -> None:
    assert main([*verb, "--model", "someone/tiny-moe"]) == 0, capsys.readouterr().err


def test_what_is_neither_here_nor_cached_is_one_line(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="someone/other is no folder here, and it could not be fetched") as caught:
        hetsched.load("someone/other", progress=False, hardware="cpu")
    assert "\n" not in str(caught.value)
    assert main(["run", "--model", "someone/other", *RUN]) == 2
    assert capsys.readouterr().err.count("hetsched:") == 1


def test_a_repository_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("401 Client Error.\n\nRepository Not Found")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=r"hub: 401 Client Error. Repository Not Found$"):
        located("someone/other")


def test_only_what_is_needed_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of gpt-oss' repository, not the weights again in two other layouts."""
    from huggingface_hub.utils import filter_repo_objects

    asked: list[dict[str, Any]] = []

    def fetch(name: str, **how: Any) -> str:
        asked.append({"name": name, **how})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert located("openai/gpt-oss-20b", progress=False) == tmp_path
    assert asked == [{"name": "openai/gpt-oss-20b", "allow_patterns": WANTED, "ignore_patterns": UNWANTED}]
    listed = ["config.json", "model-00001-of-00002.safetensors", "original/model.safetensors", "tokenizer.json"]
    listed += ["metal/model.bin", "README.md", "chat_template.jinja", "consolidated.safetensors", "pytorch_model.bin"]
    kept = list(filter_repo_objects(listed, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    assert kept == ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja"]


@pytest.mark.parametrize("name", ["models", "./a/b", "a/b/c", "~/a", "/a/b", "a/../b", "a/b.gguf/"])
def test_what_is_no_id_is_a_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(hub, "_fetched", lambda *_: pytest.fail("the hub was asked"))
    assert located(name) == Path(name).expanduser()


def test_what_is_here_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "_fetched", lambda *_: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai" / "gpt-oss-20b").mkdir(parents=True)
    assert located("openai/gpt-oss-20b") == Path("openai/gpt-oss-20b")
    assert shown_name(located("openai/gpt-oss-20b")) == "gpt-oss-20b"
    assert located(Path("someone/other")) == Path("someone/other")
