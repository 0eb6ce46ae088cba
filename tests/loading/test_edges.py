"""Files around the weights that make no sense: each is refused in one line, before any weight is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hetsched.loading.load as loading
from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.loading.checkpoint import INDEX, Checkpoint
from hetsched.loading.generation_file import FILE, read_generation
from hetsched.loading.gguf_file import Gguf
from hetsched.testing.models import tiny_moe
from tests.fuzz.good_files import SHORT, TEMPLATE, checkpoint

from .made_gguf import KIND, write
from .test_gguf import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edges") / "model"
    checkpoint(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be damaged, whose weights must not be read."""
    shutil.copytree(whole, tmp_path / "model")
    monkeypatch.setattr(loading, "_read", lambda *_: pytest.fail("weights were read"))
    return tmp_path / "model"


def line_of(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> str:
    """The one line on standard error of a run that is refused."""
    words = ["run", "--prompt", "the sea", *SHORT.split(), "--model", str(folder), *more]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "a/b", "", 7, ["x"], None])
def test_an_index_names_files_of_its_folder(tmp_path: Path, place: Any) -> None:
    tiny_moe().save_pretrained(tmp_path, max_shard_size="60KB")
    index = json.loads((tmp_path / INDEX).read_text())
    name = sorted(index["weight_map"])[0]
    index["weight_map"][name] = place
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"{INDEX}: {name} is in .* no file name of its folder"):
        Checkpoint(tmp_path)


def test_an_index_with_a_name_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "x" * 300}}))
    with pytest.raises(InputError, match="is missing"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', "[" * 5000 + "]" * 5000, "9" * 5000, "{"])
def test_an_index_of_another_kind(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(InputError, match=INDEX):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eos_token_id", [{"": 1}]),
        ("pad_token_id", "0"),
        ("bos_token_id", 2**70),
        ("temperature", "warm"),
        ("top_p", float("inf")),
        ("repetition_penalty", [1.1]),
        ("top_k", 0.5),
        ("do_sample", "yes"),
    ],
)
def test_generation_settings_are_of_their_types(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / FILE).write_text(json.dumps({name: value}))
    with pytest.raises(InputError, match=f"{name} in .*{FILE} is .*; it must be .*; correct it, or remove it"):
        read_generation(tmp_path)


def no_words(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["<unk>"] = 10**6
    (folder / "tokenizer.json").write_text(json.dumps(document))


def no_tokens(folder: Path) -> None:
    document = json.loads((folder / "tokenizer_config.json").read_text())
    document["model_max_length"] = ""
    (folder / "tokenizer_config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").write_text("[" * 5000), "has no tokenizer that transformers reads"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "has no tokenizer that transformers reads"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 / 0 }}"), "chat template refuses"),
        (lambda folder: (folder / "chat_template.jinja").write_text(" "), "no tokens of the prompt"),
        (no_tokens, "the tokenizer makes no tokens of the prompt"),
    ],
)
def test_a_tokenizer_of_no_use(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], Any], said: str
) -> None:
    damage(folder)
    assert said in line_of(capsys, folder)


def test_tokens_beyond_the_vocabulary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_words(folder)
    words = ["run", "--prompt", "storm", *SHORT.split(), "--model", str(folder)]
    assert main(words) == 2
    assert "token 1000000 of the prompt, of 128 there are" in capsys.readouterr().err


def test_a_chat_without_a_template_is_refused_before_the_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no chat template, and --chat needs one" in line_of(capsys, folder, "--chat")
    (folder / "chat_template.jinja").write_text(TEMPLATE + "{{ raise_exception('never') }}")
    assert "never" in line_of(capsys, folder, "--chat")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_draft_is_refused_before_the_weights(
    folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(whole, tmp_path / "draft")
    (tmp_path / "draft" / name).write_text("{}")
    assert "draft" in line_of(capsys, folder, "--speculate", "1", "--draft", str(tmp_path / "draft"))


def test_tensors_that_share_bytes(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "m.gguf"
    write(path, tiny("qwen3_moe"), KIND.Q8_0, KIND.Q8_0)
    reader = gguf.GGUFReader(path, "r+")
    reader.tensors[1].field.parts[-1][:] = reader.tensors[0].field.parts[-1]
    reader.data.flush()
    del reader
    with pytest.raises(InputError, match="in one place; it is damaged"):
        Gguf(path)
