"""Checkpoints with packed experts: rows as they are packed, logits as those of the unpacked model, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hetsched
from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.load_report import report_of
from hetsched.integrations.model_shape import layers_of
from hetsched.loading.experts import put_tied
from hetsched.loading.load import load_model
from hetsched.packed import PackedStack, layout_of
from tests.packed.models import pack, qwen3_moe

from .made import generated, made_mxfp4
from .made_packed import PUBLISHED, change_tensors, made_packed

FAST = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "50%", "time_scale": 1.0}


def dequantised(folder: Path, name: str, dtype: str = "auto") -> Any:
    """transformers' own unpacked model, where it has one; else the one with plain weights."""
    auto, eager = transformers.AutoModelForCausalLM, {"experts_implementation": "eager", "dtype": dtype}
    if PUBLISHED[name].settings["quant_method"] == "fp8":
        how = transformers.FineGrainedFP8Config(dequantize=True)
        return auto.from_pretrained(folder / "packed", quantization_config=how, **eager).eval()
    return auto.from_pretrained(folder / "plain", **eager).eval()


def same_logits(model: Any, handle: Any, reference: Any) -> None:
    expected = generated(reference)
    assert expected.isfinite().all()
    with handle:
        assert torch.equal(generated(model), expected)
    model.set_experts_implementation("eager")  # and after detach, by transformers' own forward
    assert torch.equal(generated(model), expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_unpacked_model(tmp_path: Path, name: str) -> None:
    made_packed(tmp_path, name)
    model, handle = hetsched.load(tmp_path / "packed", progress=False, **FAST)
    laid = PUBLISHED[name].laid
    stored = [module.down_proj for module in expert_modules(model) if isinstance(module.down_proj, PackedStack)]
    assert len(stored) == (1 if name == "int4-one-layer" else 2 if name == "deepseek-v3" else 3)
    assert {matrix.format.name for stack in stored for matrix in stack.piece.matrices} == {laid.name}
    loaded = handle.stats()["loaded"]
    assert loaded["formats"] == (laid.name,)
    assert (loaded["expert_bytes"] == sum(stack.rows.nbytes for stack in stored)) == (name != "int4-one-layer")
    same_logits(model, handle, dequantised(tmp_path, name))


def test_gpt_oss_logits_are_those_of_the_unpacked_model(tmp_path: Path) -> None:
    kind = made_mxfp4(tmp_path)
    model, handle = hetsched.load(tmp_path, progress=False, **FAST)
    assert handle.geometry.dtype == "mxfp4"
    how = transformers.Mxfp4Config(dequantize=True)
    same_logits(model, handle, kind.from_pretrained(tmp_path, quantization_config=how, experts_implementation="eager"))


@pytest.mark.parametrize(
    ("name", "dtype"), [("qwen3-moe-fp8", "bfloat16"), ("qwen3-moe-fp8", "float32"), ("gptq", None)]
)
@pytest.mark.parametrize("unpack", [False, True])
def test_every_weight_is_the_unpacked_models(tmp_path: Path, name: str, dtype: str | None, unpack: bool) -> None:
    """Dense ones among them, and all of them of the dtype that was asked for, which transformers forgets for some."""
    made_packed(tmp_path, name)
    found = load_model(tmp_path / "packed", progress=False, dtype=dtype, unpack=unpack)
    expected = dict(dequantised(tmp_path, name, dtype=dtype or "auto").named_parameters())
    assert {value.dtype for value in found.parameters()} == {getattr(torch, dtype or "bfloat16")}
    assert dict(found.named_parameters()).keys() == expected.keys()
    for key, value in found.named_parameters():
        assert torch.equal(value, expected[key].to(value.dtype)), key


def test_tied_modules_share_packed_parameters() -> None:
    first, second = expert_modules(pack(qwen3_moe(), "mxfp4", "mxfp4"))
    assert layers_of([first, second]) == [[first], [second]]
    put_tied([first, second], layout_of(first), first.down_proj.rows)
    assert layers_of([first, second]) == [[first, second]]
    assert torch.equal(second.gate_up_proj, first.gate_up_proj)


def test_the_report_says_what_was_unpacked(tmp_path: Path) -> None:
    made_packed(tmp_path, "int4-128")
    report = report_of(load_model(tmp_path / "packed", progress=False))
    assert report is not None
    weights = 3 * 256 * 32 * (4 + 2 + 2 + 4)  # of three layers' attention
    assert report["unpacked"] == {"int4-group": weights * 4 // 8 + weights // 128 * 2}
    assert report["unpacked_bytes"] == weights * 2
    assert report["formats"] == ("int4-group",)
    unpacked = report_of(load_model(tmp_path / "packed", progress=False, unpack=True))
    assert unpacked is not None
    assert unpacked["formats"] == ()
    assert unpacked["expert_bytes"] == unpacked["unpacked_bytes"] - weights * 2
    assert unpacked["expert_bytes"] > 3.8 * report["expert_bytes"]


def test_experts_packed_in_two_ways_are_unpacked(tmp_path: Path) -> None:
    """A layer's rows are alike; where its experts are not, they are plain."""
    made_packed(tmp_path, "int4-32")
    plain = dequantised(tmp_path, "int4-32").state_dict()

    def one_plain(tensors: dict[str, Any]) -> None:
        stem = "model.layers.1.mlp.experts.2.down_proj."
        for key in [key for key in tensors if key.startswith(stem)]:
            del tensors[key]
        tensors[f"{stem}weight"] = plain["model.layers.1.mlp.experts.down_proj"][2].clone()

    change_tensors(tmp_path / "packed", one_plain)
    model, handle = hetsched.load(tmp_path / "packed", progress=False, **FAST)
    kinds = [type(module.down_proj.data) for module in expert_modules(model)]
    assert [kind is PackedStack for kind in kinds] == [True, False, True]
    same_logits(model, handle, dequantised(tmp_path, "int4-32"))


@pytest.mark.parametrize("name", ["gpt-oss", *PUBLISHED])
def test_verify_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path, name: str) -> None:
    if name == "gpt-oss":
        made_mxfp4(tmp_path, vocab_size=160)
    else:
        made_packed(tmp_path, name)
    folder = tmp_path if name == "gpt-oss" else tmp_path / "packed"
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, folder)
    code = main(
        ["verify", "--model", str(folder), "--max-new-tokens", "3", "--gpu-memory", "50%", "--prompt", "the sea"]
    )
    assert code == 0, capsys.readouterr().err


def test_attach_takes_the_rows_as_they_are(tmp_path: Path) -> None:
    made_packed(tmp_path, "awq")
    model = load_model(tmp_path / "packed", progress=False)
    rows = [module.down_proj.rows.data_ptr() for module in expert_modules(model)]
    with hetsched.attach(model, **FAST) as handle:
        assert [handle.engine.store.rows(layer).data_ptr() for layer in range(3)] == rows
    assert [module.down_proj.rows.data_ptr() for module in expert_modules(model)] == rows


def test_saving_is_refused_or_asked_for(tmp_path: Path) -> None:
    made_packed(tmp_path, "gptq")
    model, handle = hetsched.load(tmp_path / "packed", progress=False, **FAST)
    for _ in range(2):
        with pytest.raises(InputError, match="unpack=True"):
            model.save_pretrained(tmp_path / "saved")
        handle.detach()
    model, handle = hetsched.load(tmp_path / "packed", progress=False, unpack=True, **FAST)
    handle.detach()
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", experts_implementation="eager")
    assert torch.equal(generated(again), generated(dequantised(tmp_path, "gptq")))
