"""The CUDA accelerator on a real GPU: laws, overlap by events, kernels, token identity, profile against execution."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.cuda.device import CudaAccelerator
from hetsched.accelerators.cuda.loads import LOADS
from hetsched.bench import device_check
from hetsched.testing.accelerators import LAWS, lanes_overlap
from tests.conftest import tiny_moe
from tests.packed.models import gpt_oss, logits, pack, qwen3_moe, unpacked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine"),
]
MACHINE = "rtx-4060-laptop-8gb"  # whose times the plans are made with, where the GPU's own are not the matter
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def make(capacity_bytes: int) -> CudaAccelerator:
    return CudaAccelerator(capacity_bytes=capacity_bytes)


@pytest.mark.parametrize("law", [law for law in LAWS if law is not lanes_overlap], ids=lambda law: law.__name__)
def test_the_laws(law: Any) -> None:
    law(make)


def test_copies_hide_behind_computation() -> None:
    """By events: the copy's hold and the kernel's overlap, and the makespan is below their sum."""
    found = device_check.overlap(make)
    assert found["hidden_share"] > 0.8
    assert found["makespan_s"] < 0.8 * (found["hold_s"] + found["compute_beside_copy_s"])
    assert found["hold_s"] < 1.2 * found["copy_s"]  # chunks follow each other without gaps


def test_an_urgent_copy_waits_for_chunks_and_not_for_the_queue() -> None:
    found = device_check.urgency(make)
    assert found["waited_s"] < 0.25 * found["background_s"]


def test_pageable_memory_arrives_too() -> None:
    assert device_check.overlap(make, 64 << 20, pinned=False)["copy_s"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_decode_kernels_agree_with_torch(dtype: torch.dtype) -> None:
    """Against fp64, no worse than torch by more than a rounding; the same twice."""
    pytest.importorskip("cupy", reason="CuPy is not installed (extra cuda13)")
    found = device_check.kernels(dtype)
    assert found["same_twice"] == 1
    assert found["fused_error"] <= max(2 * found["torch_error"], ROUNDING[dtype])


@pytest.mark.parametrize("format_", LOADS)
def test_packed_decode_kernels_agree_with_torch(format_: str) -> None:
    """Every format against fp64 with the numbers that it stores; what is unpacked for torch is so bit for bit."""
    pytest.importorskip("cupy", reason="CuPy is not installed (extra cuda13)")
    found = device_check.kernels(torch.bfloat16, format_)
    assert found["same_twice"] == 1
    assert found["unpacked_alike"] == 1
    assert found["fused_error"] <= max(2 * found["torch_error"], ROUNDING[torch.bfloat16])


@pytest.mark.parametrize("format_", ["mxfp4", "q4_k", "fp8-block"])
@pytest.mark.parametrize("make_model", [qwen3_moe, gpt_oss])
def test_packed_experts_in_slots_give_the_logits_of_unpacked_ones(format_: str, make_model: Any) -> None:
    """All experts on the GPU, prompt and decode, against the same numbers unpacked, by torch on the same GPU."""
    pytest.importorskip("cupy", reason="CuPy is not installed (extra cuda13)")
    packed = pack(make_model(), format_, format_)
    expected = logits(unpacked(make_model, packed).cuda())
    with hetsched.attach(packed, hardware=MACHINE, gpu_memory="100%", accelerator=make(64 << 20), cpu_kernel="eager"):
        found = logits(packed)
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("share", ["25%", "100%"])
def test_tokens_are_eagers(share: str) -> None:
    """A tiny model on the GPU, its experts between both memories: the tokens of plain eager on the same GPU."""
    model = tiny_moe()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1)).cuda()
    options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = copy.deepcopy(model).cuda().generate(ids, **options)
    with hetsched.attach(model, hardware=MACHINE, gpu_memory=share, accelerator=make(64 << 20)) as attached:
        found = model.generate(ids, **options)
        assert attached.stats()["emulated"] is False
    assert torch.equal(found, expected)


def test_execution_follows_the_measured_profile() -> None:
    """Quick profile of this very machine, then a model of the same expert geometry: median error of a layer."""
    found = device_check.predicted_and_executed(*_olmoe_like())
    assert found["layers"] >= 64
    assert found["median_error"] < 0.5  # a quick profile; examples/gpu_check.py reports the figure itself


def _olmoe_like() -> tuple[Any, Any]:
    from examples.gpu_check import attached_olmoe

    return attached_olmoe()
