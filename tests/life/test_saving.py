"""Saving an attached model: what is written reloads equal, attached or not, and saving changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model

import hetsched
from tests.architectures.test_shapes import diffusion_gemma
from tests.conftest import tiny_moe
from tests.generation.generating import EMULATED, HERE, generated, same
from tests.loading.made import generated as logits_of
from tests.loading.made import made
from tests.loading.test_load import differing

EAGER = {"experts_implementation": "eager"}
WAYS = pytest.mark.parametrize("way", [EMULATED, HERE], ids=["emulated", "cpu"])


@WAYS
@pytest.mark.parametrize("shard", ["1GB", "30KB"])
def test_save_pretrained(way: dict[str, Any], shard: str, tmp_path: Path) -> None:
    """Read by transformers and by hetsched.load; shards as many as without attach()."""
    model = tiny_moe()
    expected = generated(model)
    model.save_pretrained(tmp_path / "eager", max_shard_size=shard)
    with hetsched.attach(model, **way):
        model.save_pretrained(tmp_path / "attached", max_shard_size=shard)
        assert same(generated(model), expected)
    names = [sorted(path.name for path in (tmp_path / kind).glob("*.safetensors")) for kind in ("eager", "attached")]
    assert names[0] == names[1]
    assert (len(names[0]) > 3) == (shard != "1GB")
    assert same(generated(type(model).from_pretrained(tmp_path / "attached", **EAGER)), expected)
    again, handle = hetsched.load(tmp_path / "attached", progress=False, **way)
    with handle:
        assert same(generated(again), expected)


@pytest.mark.parametrize("package", ["mixtral", "gpt_oss"])
def test_save_pretrained_after_load(tmp_path: Path, package: str) -> None:
    """The tensors that were read, under the names they were read from."""
    kind = made(tmp_path / "from", package, shard="1GB")
    model, handle = hetsched.load(tmp_path / "from", progress=False, **EMULATED)
    with handle:
        expected = logits_of(model)
        model.save_pretrained(tmp_path / "to")
        assert torch.equal(logits_of(model), expected)
    written, read = (load_file(tmp_path / name / "model.safetensors") for name in ("to", "from"))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)
    assert torch.equal(logits_of(kind.from_pretrained(tmp_path / "to", **EAGER)), expected)


@WAYS
def test_safetensors_and_torch_save(way: dict[str, Any], tmp_path: Path) -> None:
    """Into a model that is not attached, and into one that is; the files are as small as eager's."""
    model, other, third = tiny_moe(), tiny_moe(seed=1), tiny_moe(seed=2)
    expected = generated(model)
    save_model(model, str(tmp_path / "eager.safetensors"))
    torch.save(model.state_dict(), tmp_path / "eager.pt")
    with hetsched.attach(model, **way), hetsched.attach(other, **way):
        save_model(model, str(tmp_path / "attached.safetensors"))
        torch.save(model.state_dict(), tmp_path / "attached.pt")
        load_model(other, tmp_path / "attached.safetensors")
        assert same(generated(other), expected)
        assert all(value.is_contiguous() for value in model.state_dict().values())
        assert model.state_dict(keep_vars=True)["lm_head.weight"] is model.lm_head.weight
        experts = model.model.layers[0].mlp.experts
        assert model.state_dict(keep_vars=True)["model.layers.0.mlp.experts.down_proj"] is experts.down_proj
    third.load_state_dict(torch.load(tmp_path / "attached.pt"))
    assert same(generated(third), expected)
    assert (tmp_path / "attached.safetensors").read_bytes() == (tmp_path / "eager.safetensors").read_bytes()
    sizes = [(tmp_path / name).stat().st_size for name in ("attached.pt", "eager.pt")]
    assert sizes[0] < 1.02 * sizes[1]  # file names and padding


def test_tied_experts_are_written_once(tmp_path: Path) -> None:
    model = diffusion_gemma()
    model.save_pretrained(tmp_path / "eager")
    with hetsched.attach(model, **EMULATED):
        model.save_pretrained(tmp_path / "attached")
        state = model.state_dict()
        pointers = [value.data_ptr() for name, value in state.items() if name.endswith("experts.down_proj")]
    assert len(pointers) == 2 * len(set(pointers))
    written, read = (load_file(tmp_path / name / "model.safetensors") for name in ("attached", "eager"))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)
    assert not differing(type(model).from_pretrained(tmp_path / "attached"), model)
