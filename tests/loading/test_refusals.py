"""What cannot be loaded is one line that names the cause, before any memory is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import hetsched
from hetsched.engine.host_store import Layout
from hetsched.errors import InputError
from hetsched.loading import room
from hetsched.loading.checkpoint import Checkpoint
from hetsched.sizes import show_bytes

from .made import made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of several shards."""
    folder = tmp_path_factory.mktemp("sharded")
    made(folder, "mixtral")
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be damaged, and a host store that must not be allocated."""
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(Layout, "allocate", lambda *_: pytest.fail("memory was taken"))
    return tmp_path


def refused(folder: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        hetsched.load(folder, progress=False, **options)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_missing_shard_is_named(folder: Path) -> None:
    gone = shards(folder)[2]
    gone.unlink()
    refused(folder, gone.name, "is missing", "download it again")


@pytest.mark.parametrize("kept", [0, 5, 0.5])
def test_a_truncated_shard_is_named(folder: Path, kept: float) -> None:
    cut = shards(folder)[1]
    content = cut.read_bytes()
    cut.write_bytes(content[: int(kept if kept != 0.5 else len(content) * kept)])
    refused(folder, cut.name, "truncated or damaged")


def test_a_shard_of_another_checkpoint_is_named(folder: Path) -> None:
    one, other = shards(folder)[:2]
    one.write_bytes(other.read_bytes())
    refused(folder, one.name, "lacks")


def test_a_missing_expert_is_counted(folder: Path) -> None:
    """The index and its shards agree, and yet an expert is not there."""
    name = "model.layers.1.block_sparse_moe.experts.5.w2.weight"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"].pop(name)
    save_file({key: value for key, value in load_file(file).items() if key != name}, file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "has 8 experts and the checkpoint 7", "layers.1")


def test_another_number_of_layers_is_no_checkpoint_of_this_config(folder: Path) -> None:
    change_config(folder, num_hidden_layers=4)
    refused(folder, "model.layers.3.", "incomplete")


def test_an_index_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    refused(folder, "model.safetensors.index.json is damaged")


def test_a_folder_without_a_model_is_said(folder: Path) -> None:
    refused(folder / "nowhere", "no config.json")
    for file in shards(folder):
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "holds no weights")


def test_a_model_bigger_than_memory_fails_with_the_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "room_bytes", lambda: 100 << 10)
    tensors = Checkpoint(folder).tensors
    rest = show_bytes(sum(stored.num_bytes for name, stored in tensors.items() if ".experts." not in name))
    total = show_bytes(sum(stored.num_bytes for stored in tensors.values()))
    refused(folder, f"needs {total} of memory", "experts 432.0 KiB", f"the rest {rest}", "100.0 KiB are free")


def test_other_packings_are_refused(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "fp8"})
    refused(folder, "quantised (fp8)", "mxfp4")


def test_what_attach_would_refuse_is_refused_before_reading(folder: Path) -> None:
    refused(folder, "unknown option 'hardwear'", "did you mean 'hardware'", hardwear="cpu")
    refused(folder, "rtx-4060", hardware="rtx-4060-labtop")
    refused(folder, "unknown", "'lru'", policy="lru")
    refused(folder, "holds no expert", hardware="rtx-4060-laptop-8gb", gpu_memory="1KiB")
    refused(folder, "dtype 'bfloat'", dtype="bfloat")


def test_experts_of_another_shape_are_refused(source: Path, tmp_path: Path) -> None:
    """Found while reading: the model is given up whole."""
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change_config(tmp_path, intermediate_size=40)
    refused(tmp_path, "gate_up_proj is [1, 96, 32]", "[1, 80, 32]")
