"""hetsched.load: the bits of from_pretrained and attach(), in rows that attach() does not copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hetsched
from hetsched.integrations.expert_modules import is_expert_module
from hetsched.integrations.load_report import report_of
from hetsched.loading.load import load_model
from hetsched.packed import Layout, PackedStack

from .made import generated, made, made_mxfp4

FAST = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "25%", "time_scale": 1.0}
# By what their checkpoints hold: an expert a tensor under two naming schemes, beside dense layers and a router bias;
# stacked, transposed with biases; transposed on the way; text and vision experts in one list.
PER_EXPERT = ("qwen3_moe", "mixtral", "deepseek_v3")
STACKED = ("gpt_oss",)
OTHERS = ("qwen3_vl_moe", "ernie4_5_vl_moe")


def differing(one: Any, other: Any) -> list[str]:
    """Names of parameters and buffers that are not equal in value and dtype."""
    found, expected = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (one, other))
    assert found.keys() == expected.keys()
    return [
        name
        for name, value in found.items()
        if value.dtype != expected[name].dtype or not torch.equal(value, expected[name])
    ]


@pytest.mark.parametrize("package", [*PER_EXPERT, *STACKED])
def test_generates_what_from_pretrained_and_attach_generate(tmp_path: Path, package: str) -> None:
    """Tokens and logits bit for bit, from several shards, experts converted one by one."""
    kind = made(tmp_path, package)
    reference = kind.from_pretrained(tmp_path)
    with hetsched.attach(reference, **FAST):
        expected = generated(reference)
    model, handle = hetsched.load(tmp_path, progress=False, **FAST)
    with handle:
        assert torch.equal(generated(model), expected)
        loaded = handle.stats()["loaded"]
    assert not differing(model, reference)
    assert loaded["shards"] > 3
    assert loaded["whole"] == 0
    assert loaded["conversions"] > 0
    assert model.config.to_dict() == reference.config.to_dict()
    assert model.generation_config.to_dict() == reference.generation_config.to_dict()
    assert model.name_or_path == str(tmp_path)
    assert not model.training


@pytest.mark.parametrize("package", OTHERS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_every_layout_is_read_as_transformers_reads_it(tmp_path: Path, package: str, dtype: torch.dtype | None) -> None:
    """Every parameter, buffer and dtype; what cannot be converted expert by expert is converted a layer at a time."""
    kind = made(tmp_path, package)
    model = load_model(tmp_path, dtype=dtype, progress=False)
    assert not differing(model, kind.from_pretrained(tmp_path, dtype=dtype or "auto"))
    report = report_of(model)
    assert report is not None
    assert bool(report["whole"]) == (package == "ernie4_5_vl_moe")


def test_tied_experts_are_in_memory_once(tmp_path: Path) -> None:
    """Two stacks that share their experts share the rows, too."""
    kind = made(tmp_path, "diffusion_gemma", name="DiffusionGemmaForBlockDiffusion")
    model = load_model(tmp_path, progress=False)
    storages = [m.down_proj.untyped_storage() for m in model.modules() if is_expert_module(m)]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    report = report_of(model)
    assert report is not None
    assert len(storages) == 2 * len(sizes)
    assert report["expert_bytes"] == sum(sizes.values())
    assert not differing(model, kind.from_pretrained(tmp_path))


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16])
def test_dtype_is_converted_as_transformers_converts_it(tmp_path: Path, dtype: Any) -> None:
    kind = made(tmp_path, "qwen3_moe")
    model = load_model(tmp_path, dtype=dtype, progress=False)
    assert model.model.layers[1].mlp.experts.gate_up_proj.dtype == getattr(torch, str(dtype).removeprefix("torch."))
    assert not differing(model, kind.from_pretrained(tmp_path, dtype=dtype))


@pytest.mark.parametrize("unpack", [False, True])
def test_packed_experts_are_what_transformers_unpacks(tmp_path: Path, unpack: bool) -> None:
    """gpt-oss as released: MXFP4 blocks and scales, as they are or unpacked one by one."""
    kind = made_mxfp4(tmp_path)
    model = load_model(tmp_path, progress=False, unpack=unpack)
    assert not differing(model, kind.from_pretrained(tmp_path))
    assert isinstance(model.model.layers[0].mlp.experts.down_proj, PackedStack) != unpack
    report = report_of(model)
    assert report is not None
    assert report["whole"] == 0
    assert model.dtype == torch.bfloat16


def test_attach_takes_the_rows_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one expert is allocated again; detach gives ordinary parameters back."""
    made(tmp_path, "qwen3_moe")
    model = load_model(tmp_path, progress=False)
    experts = model.model.layers[0].mlp.experts
    place = experts.gate_up_proj.data_ptr()
    with monkeypatch.context() as patched:
        patched.setattr(Layout, "allocate", lambda *_: pytest.fail("a second copy"))
        handle = hetsched.attach(model, **FAST)
    store = handle.engine.store
    assert store.rows(0).data_ptr() == place == experts.gate_up_proj.data_ptr()
    assert store.num_bytes == handle.stats()["loaded"]["expert_bytes"]
    handle.detach()
    assert experts.gate_up_proj.is_contiguous()
    assert experts.gate_up_proj.data_ptr() != place
    with hetsched.attach(model, **FAST) as again:  # and these are moved, as those of any model are
        assert again.engine.store.rows(0).data_ptr() == experts.gate_up_proj.data_ptr()


def test_saving_writes_the_tensors_that_were_loaded(tmp_path: Path) -> None:
    """After detach, save_pretrained writes one tensor an expert under the names that it came from."""
    made(tmp_path / "from", "mixtral", shard="1GB")
    model, handle = hetsched.load(tmp_path / "from", progress=False, **FAST)
    handle.detach()
    model.save_pretrained(tmp_path / "to")
    written, read = (load_file(tmp_path / name / "model.safetensors") for name in ("to", "from"))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)


def test_other_weight_files_are_left_to_transformers(tmp_path: Path) -> None:
    """A .bin checkpoint is loaded by from_pretrained, and the statistics say so."""
    kind = made(tmp_path, "qwen3_moe", shard="1GB")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    expected = kind.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model, handle = hetsched.load(tmp_path, progress=False, **FAST)
    with handle:
        assert "not in model.safetensors" in handle.stats()["loaded"]["by_transformers"]
    assert not differing(model, expected)
