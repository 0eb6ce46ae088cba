"""Packed checkpoints that cannot be served are one line that says what can, before any memory is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.load_report import report_of
from hetsched.loading.load import load_model
from hetsched.loading.quantization import packing_of
from hetsched.machine import memory as room
from hetsched.machine.sizes import show_bytes
from hetsched.packed import Layout, PackedLayout

from .made_packed import FP8, change_tensors, int4, made_packed

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm"}


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Layout, PackedLayout):
        monkeypatch.setattr(kind, "allocate", lambda *_: pytest.fail("memory was taken"))


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        hetsched.load(folder, progress=False, hardware="cpu", cpu_kernel="eager")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({}, "None"),
        (FP8 | {"weight_block_size": None}, "weight_block_size None"),
        (FP8 | {"weight_block_size": [1, 32]}, "weight_block_size [1, 32]"),
        (FP8 | {"expert_dtype": "fp4"}, "expert_dtype fp4"),
        (int4(32, num_bits=8), "num_bits 8"),
        (int4(32, symmetric=False), "symmetric False"),
        (int4(32, strategy="channel"), "strategy channel"),
        (int4(32, actorder="group"), "actorder"),
        (int4(32) | {"format": "float-quantized"}, "float-quantized"),
        (int4(32) | {"config_groups": {}}, "without config_groups"),
        (GPTQ | {"bits": 8}, "8 bits"),
        (GPTQ | {"desc_act": True}, "desc_act"),
        (GPTQ | {"checkpoint_format": "marlin"}, "marlin"),
        (AWQ | {"version": "gemv"}, "gemv"),
        (AWQ | {"bits": 8}, "8 bits"),
    ],
)
def test_what_is_not_served_is_named_with_what_is(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="compressed-tensors") as caught:
        packing_of({"quantization_config": settings})
    assert f"quantised ({settings.get('quant_method', 'None')}" in str(caught.value)
    assert said in str(caught.value)


def test_a_plain_config_is_not_packed() -> None:
    assert packing_of({}) is None
    assert packing_of(transformers.Qwen3MoeConfig()) is None


def test_settings_may_be_transformers_own() -> None:
    config = transformers.Qwen3MoeConfig(quantization_config=transformers.FineGrainedFP8Config())
    packing = packing_of(config)
    assert packing is not None
    assert packing.method == "fp8"


def test_another_method_is_refused_before_reading(tmp_path: Path, no_memory: None) -> None:
    made_packed(tmp_path, "awq", quant_method="aqlm")
    refused(tmp_path / "packed", "quantised (aqlm)", "mxfp4", "gptq and awq")


@pytest.mark.parametrize(
    ("name", "part"),
    [("qwen3-moe-fp8", "weight_scale_inv"), ("int4-32", "weight_scale"), ("gptq", "qzeros"), ("awq", "scales")],
)
def test_missing_scales_are_named(tmp_path: Path, no_memory: None, name: str, part: str) -> None:
    made_packed(tmp_path, name)
    stem = "model.layers.1.mlp.experts.2.up_proj."
    change_tensors(tmp_path / "packed", lambda tensors: tensors.pop(stem + part))
    refused(tmp_path / "packed", stem, "missing", "incomplete")


@pytest.mark.parametrize(
    ("name", "part", "cut"),
    [
        ("qwen3-moe-fp8", "weight_scale_inv", lambda scales: scales[:, :1].contiguous()),
        ("qwen3-moe-fp8", "weight_scale_inv", lambda scales: scales.to(torch.float8_e8m0fnu)),
        ("int4-32", "weight_scale", lambda scales: scales[:, :0].contiguous()),
        ("int4-32", "weight_packed", lambda packed: packed[0].clone()),
        ("gptq", "qzeros", lambda zeros: zeros.short()),
    ],
)
def test_parts_of_other_shapes_are_named(tmp_path: Path, no_memory: None, name: str, part: str, cut: Any) -> None:
    made_packed(tmp_path, name)
    stem = "model.layers.1.mlp.experts.2.up_proj."

    def change(tensors: dict[str, Any]) -> None:
        tensors[stem + part] = cut(tensors[stem + part])

    change_tensors(tmp_path / "packed", change)
    refused(tmp_path / "packed", stem, "is no matrix that")


def test_fp8_that_is_stacked_is_no_plain_weight(tmp_path: Path, no_memory: None) -> None:
    """A module's own name, and scales beside it, of which nothing here knows."""
    made_packed(tmp_path, "qwen3-moe-fp8")

    def stack(tensors: dict[str, Any]) -> None:
        stem = "model.layers.1.mlp.experts."
        for key in [key for key in tensors if key.startswith(stem)]:
            del tensors[key]
        tensors[f"{stem}gate_up_proj"] = torch.ones(4, 256, 256, dtype=torch.float8_e4m3fn)
        tensors[f"{stem}gate_up_proj_scale_inv"] = torch.ones(4, 2, 2)
        tensors[f"{stem}down_proj"] = torch.ones(4, 256, 128, dtype=torch.float8_e4m3fn)

    change_tensors(tmp_path / "packed", stack)
    refused(tmp_path / "packed", "model.layers.1.mlp.experts.", "float8_e4m3fn [4, 256, ", "no way that fp8 is served")


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    made_packed(tmp_path, "gptq")

    def shuffle(tensors: dict[str, Any]) -> None:
        tensors["model.layers.1.mlp.experts.2.up_proj.g_idx"] = torch.arange(256).int() % 2

    change_tensors(tmp_path / "packed", shuffle)
    refused(tmp_path / "packed", "g_idx")


def test_room_is_checked_for_the_packed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte: with less nothing is allocated, and unpacked there would be no room."""
    made_packed(tmp_path, "int4-128")
    report = report_of(load_model(tmp_path / "packed", progress=False))
    assert report is not None
    weights = 3 * 4 * 3 * 256 * 128
    assert weights / 2 < report["expert_bytes"] < 0.55 * weights
    needed = report["expert_bytes"] + report["rest_bytes"]
    monkeypatch.setattr(room, "room_bytes", lambda: needed)
    load_model(tmp_path / "packed", progress=False)
    for kind in (Layout, PackedLayout):
        monkeypatch.setattr(kind, "allocate", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(InputError, match=f"experts {show_bytes(2 * weights)}"):
        load_model(tmp_path / "packed", progress=False, unpack=True)
    monkeypatch.setattr(room, "room_bytes", lambda: needed - 1)
    refused(tmp_path / "packed", f"experts {show_bytes(report['expert_bytes'])}")


def test_a_config_of_another_size_is_refused(tmp_path: Path) -> None:
    made_packed(tmp_path, "int4-32")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config | {"moe_intermediate_size": 64}))
    refused(tmp_path / "packed", "config.json belongs to another checkpoint")
