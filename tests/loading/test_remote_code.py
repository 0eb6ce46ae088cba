"""Code that comes with a checkpoint runs only where the user said so, and nobody is asked on standard input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import hetsched
from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.testing.models import tiny_moe

CODE = """
from pathlib import Path
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

Path({marker!r}).write_text("ran")

class OwnConfig(Qwen2MoeConfig):
    model_type = "own-moe"

class OwnForCausalLM(Qwen2MoeForCausalLM):
    config_class = OwnConfig
"""
RUN = ["--prompt", "the sea", "--max-new-tokens", "2", "--hardware", "cpu"]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the code writes when it runs."""
    return tmp_path / "marker"


@pytest.fixture
def folder(
    checkpoint: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """The tiny checkpoint as a model class of its own, which is all that can read it; whoever asks fails."""
    from transformers import dynamic_module_utils

    folder = tmp_path / f"own-{abs(hash(request.node.name))}"  # transformers keeps modules by folder name
    shutil.copytree(checkpoint, folder)
    # transformers converts names by model type, and knows nothing of this one: the names are the parameters'.
    save_file(dict(tiny_moe().state_dict()), folder / "model.safetensors", {"format": "pt"})
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-moe", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on standard input"))
    return folder


def test_load_refuses_in_one_line(folder: Path, marker: Path) -> None:
    with pytest.raises(InputError, match="add --trust-remote-code") as caught:
        hetsched.load(folder, progress=False, hardware="cpu")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not marker.exists()


def test_load_runs_it_where_it_is_trusted(folder: Path, marker: Path) -> None:
    model, handle = hetsched.load(folder, progress=False, trust_remote_code=True, hardware="cpu")
    with handle:
        assert type(model).__name__ == "OwnForCausalLM"
        assert handle.stats()["loaded"]["by_transformers"] == ""
    assert marker.exists()


@pytest.mark.parametrize("verb", [["run", *RUN], ["verify", "--max-new-tokens", "2"], ["trace", "record"]])
@pytest.mark.parametrize("trusted", [False, True])
def test_verbs(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, marker: Path, verb: list[str], trusted: bool
) -> None:
    argv = [*verb, "--model", str(folder), *(["--trust-remote-code"] if trusted else [])]
    if verb[0] == "trace":
        (tmp_path / "prompts").write_text("the sea")
        argv += ["--prompts", str(tmp_path / "prompts"), "--out", str(tmp_path / "trace.npz"), "--max-new-tokens", "2"]
    code = main(argv)
    err = capsys.readouterr().err
    assert code == (0 if trusted else 2), err
    assert marker.exists() == trusted
    lines = [line for line in err.splitlines() if line.startswith("hetsched:")]
    assert [("--trust-remote-code" in line) for line in lines] == ([] if trusted else [True])


def test_a_tokenizer_of_its_own_is_refused(checkpoint: Path, tmp_path: Path, marker: Path) -> None:
    """The model is transformers' own, the tokenizer is not."""
    folder = tmp_path / "tokenizer-of-its-own"
    shutil.copytree(checkpoint, folder)
    code = f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\nclass Own: ...\n"
    (folder / "own.py").write_text(code)
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    main(["run", "--model", str(folder), *RUN])
    assert not marker.exists()
