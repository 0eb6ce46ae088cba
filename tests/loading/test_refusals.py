"""What cannot be loaded is one line that names the cause, before any memory is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hetsched
from hetsched.errors import InputError
from hetsched.loading import load
from hetsched.loading.checkpoint import Checkpoint, Reader
from hetsched.loading.load import load_model
from hetsched.machine import memory as room
from hetsched.machine.sizes import show_bytes
from hetsched.packed import Layout
from hetsched.testing.models import tiny_moe

from .made import made

EMULATED = "rtx-4060-laptop-8gb"


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


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """All shards as one file, after a change to its tensors."""
    tensors = {name: tensor for shard in shards(folder) for name, tensor in load_file(shard).items()}
    for file in [*shards(folder), folder / "model.safetensors.index.json"]:
        file.unlink()
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


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


@pytest.mark.parametrize("gone", ["lm_head.weight", "model.layers.1.block_sparse_moe.gate.weight", "model.norm.weight"])
def test_a_missing_weight_is_named(folder: Path, gone: str) -> None:
    """The index and its shards agree; transformers would make the weight up."""
    rewrite(folder, lambda tensors: tensors.pop(gone))
    refused(folder, str(folder), "lacks 1 of the model's weights", gone.rpartition(".")[0].rpartition(".")[2])


def test_of_many_missing_weights_the_first_are_named(folder: Path) -> None:
    def strip(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "layernorm" in name]:
            del tensors[name]

    rewrite(folder, strip)
    refused(folder, "lacks 6 of", "model.layers.0.input_layernorm.weight", "and 3 more")


@pytest.mark.usefixtures("folder")
def test_weights_that_transformers_reads_must_be_whole_too(tmp_path: Path) -> None:
    """A .bin checkpoint goes through from_pretrained, which only warns."""
    rewrite(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, "lacks 1 of", "lm_head.weight")


@pytest.mark.usefixtures("folder")
def test_options_come_before_weights_that_transformers_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(tmp_path, lambda tensors: None)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")  # never opened, so of any kind
    monkeypatch.setattr(load, "_by_transformers", lambda *_: pytest.fail("weights were read"))
    refused(tmp_path, "holds no expert", hardware=EMULATED, gpu_memory="1KiB")
    refused(tmp_path, "CPU kernel for bf16", dtype="bfloat16", hardware="cpu", cpu_kernel="torch-fp32")


def test_a_tied_weight_may_be_absent(tmp_path: Path) -> None:
    """With tie_word_embeddings the head is the embedding, and so is it the other way round; one must be there."""
    kind = made(tmp_path, "qwen3_moe", shard="1GB")
    change_config(tmp_path, tie_word_embeddings=True)
    for absent, held in (("lm_head.weight", "model.embed_tokens.weight"), ("", ""), ("model.embed_tokens.weight", "")):
        tensors = load_file(tmp_path / "model.safetensors")
        if absent and held:
            tensors.pop(absent, None)
        elif absent:
            tensors["lm_head.weight"] = tensors.pop(absent)
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        model = load_model(tmp_path, progress=False)
        assert torch.equal(model.lm_head.weight, kind.from_pretrained(tmp_path).lm_head.weight)
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    save_file({n: t for n, t in tensors.items() if n != "lm_head.weight"}, tmp_path / "model.safetensors")
    refused(tmp_path, "lacks 2 of", "lm_head.weight", "model.embed_tokens.weight")


def test_a_dense_weight_of_another_shape_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    refused(folder, "model.norm.weight is [31]", "model.safetensors where the model has [32]")


def test_an_index_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    refused(folder, "model.safetensors.index.json is no JSON", "download it again")


@pytest.mark.parametrize("value", [{"num_attention_heads": 0}, {"model_type": ["a", "b"]}, {"hidden_size": "many"}])
def test_a_config_that_transformers_chokes_on_is_named(folder: Path, value: dict[str, Any]) -> None:
    change_config(folder, **value)
    refused(folder, "config.json")


def test_a_damaged_generation_config_is_named(folder: Path) -> None:
    """transformers passes over it, and the model ends its texts otherwise."""
    (folder / "generation_config.json").write_text('{"eos_token_id": ')
    refused(folder, "generation_config.json is no JSON", "remove it")


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


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"hardwear": "cpu"}, "unknown option 'hardwear'"),
        ({"hardware": "rtx-4060-labtop"}, "unknown machine"),
        ({"policy": "lru"}, "unknown policy 'lru'"),
        ({"solver": "exakt"}, "did you mean 'exact'"),
        ({"accelerator": "gpu"}, "unknown accelerator 'gpu'"),
        ({"accelerator": "cuda"}, "torch"),
        ({"hardware": "cpu", "cpu_kernel": "blas"}, "unknown CPU kernel"),
        ({"hardware": EMULATED, "stand_in_for": "gpt-oss"}, "unknown model 'gpt-oss'"),
        ({"hardware": "cpu", "stand_in_for": "gpt-oss-20b"}, "needs an emulated machine"),
        ({"hardware": EMULATED, "gpu_precision": "int3"}, "unknown GPU precision 'int3'"),
        ({"hardware": "cpu", "gpu_precision": "int8"}, "has no GPU"),
        ({"hardware": EMULATED, "time_scale": 0.5}, "time scale 0.5 is below 1"),
        ({"hardware": EMULATED, "gpu_memory": "lots"}, "is not an amount of memory"),
    ],
)
def test_a_bad_option_is_found_before_the_folder_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], part: str
) -> None:
    """No file is opened, and attach() refuses the same with the same words."""
    with monkeypatch.context() as patched:
        patched.setattr(load, "read_config", lambda *_, **__: pytest.fail("the config was read"))
        with pytest.raises(InputError) as early:
            hetsched.load(tmp_path, progress=False, **options)
    assert part in str(early.value)
    if "hardwear" not in options:
        with pytest.raises(InputError) as late:
            hetsched.attach(tiny_moe(), **options)
        assert str(late.value).partition(" for ")[0] == str(early.value).partition(" for ")[0]


def test_what_depends_on_the_model_is_found_before_a_weight_is_read(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "_slice", lambda *_: pytest.fail("a weight was read"))
    refused(source, "CPU kernel for fp32", hardware="cpu", cpu_kernel="fused-bf16")
    refused(source, "holds no expert", hardware=EMULATED, gpu_memory="1KiB")
    refused(source, "more than", hardware=EMULATED, gpu_memory="900GiB")


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
