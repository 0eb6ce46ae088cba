"""Packed experts on the CPU lane by kernels: near transformers' own results, with a GPU beside it and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.cpu_kernels import parse_choice
from hetsched.engine.cpu_packed import packed_experts
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from tests.accelerators.clocked_queues import ClockedQueues
from tests.packed.models import gpt_oss, logits, pack, qwen3_moe, unpacked

ON_CPU: dict[str, Any] = {"hardware": "cpu"}
EMULATED: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "40%", "time_scale": 1.0}
NEAR, ROUNDED = 1e-5, 0.1  # of the logits' size, in fp32; with activations of 8 bits


def difference(model: Any, expected: torch.Tensor, **options: Any) -> tuple[float, dict[str, Any]]:
    """How far an attached model's logits are off, of their size; and what stats() say."""
    with hetsched.attach(model, **options) as handle:
        found = logits(model).float()
        return float((found - expected).norm() / expected.norm()), handle.stats()


@pytest.mark.parametrize("machine", [ON_CPU, EMULATED], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("make", "up", "down", "matrices", "joined"),
    [
        (qwen3_moe, "q4_k", "q6_k", 2, "rows"),
        (qwen3_moe, "fp8-block", "fp8-block", 1, "rows"),
        (gpt_oss, "mxfp4", "mxfp4", 1, "rows"),
        (gpt_oss, "q8_0", "q8_0", 2, "turns"),
        (qwen3_moe, "gptq", "q8_0", 1, "rows"),
    ],
)
def test_kernels_are_near(make: Any, up: str, down: str, matrices: int, joined: str, machine: Any) -> None:
    model = pack(make().float(), up, down, matrices, joined)
    expected = logits(unpacked(lambda: make().float(), model))
    for spec in ("packed", "packed@1+unpack@3"):
        off, stats = difference(model, expected, cpu_kernel=spec, **machine)
        assert off < NEAR
        assert stats["lossless"]
        assert stats["cpu_kernel"] == (spec if "+" in spec else f"{spec}@1")


def test_lanes_with_threads_of_their_own_compute_the_same() -> None:
    """As on a real device: the CPU lane is the caller's, copies arrive when they do; one call of kernels a layer."""
    model = pack(qwen3_moe().float(), "q8_0", "q8_0")
    expected = logits(unpacked(lambda: qwen3_moe().float(), model))
    device = StreamAccelerator(ClockedQueues(1e6), 1 << 22, 1 << 10)
    options = {"hardware": EMULATED["hardware"], "gpu_memory": "40%", "accelerator": device, "cpu_kernel": "packed"}
    with hetsched.attach(model, **options) as handle:
        found = logits(model)
        handle.engine.check()
        assert handle.stats()["lossless"]
    assert (found - expected).norm() < NEAR * expected.norm()


def test_rounded_activations_are_lossy_and_say_so() -> None:
    """Other results than exact ones, not far from them, under the label."""
    model = pack(gpt_oss().float(), "mxfp4", "mxfp4")
    expected = logits(unpacked(lambda: gpt_oss().float(), model))
    for machine in (ON_CPU, EMULATED):
        off, stats = difference(model, expected, cpu_kernel="packed-int8", **machine)
        assert NEAR < off < ROUNDED
        assert not stats["lossless"]


def test_auto_measures_what_the_model_has() -> None:
    """On a real machine; where no kernel reads a format, or the activation is another, experts are unpacked."""
    for up, spec in (("q8_0", ""), ("gptq", "unpack@1")):
        model = pack(qwen3_moe().float(), up, up)
        off, stats = difference(model, logits(unpacked(lambda: qwen3_moe().float(), model)), **ON_CPU)
        assert off < NEAR
        assert stats["cpu_kernel"].split("@")[0] in ("packed", "unpack")
        assert stats["cpu_kernel"] == (spec or stats["cpu_kernel"])
    assert "no packed kernel reads" in stats["cpu_kernel_reason"]


def test_modules_that_no_kernel_serves_are_left_to_torch() -> None:
    """Another activation than silu or gpt-oss's."""
    model = pack(qwen3_moe(), "q8_0", "q8_0")
    module = expert_modules(model)[0]
    stack = module.gate_up_proj
    weights_E = [stack.layout_of_rows.views(row) for row in stack.rows]
    choice = parse_choice("packed", "q8_0", packed=True)
    assert packed_experts(module, weights_E, choice) is not None
    module.act_fn = torch.nn.GELU()
    assert packed_experts(module, weights_E, choice) is None
    expected = logits(model)
    with hetsched.attach(model, cpu_kernel="packed", **ON_CPU):
        assert torch.allclose(logits(model), expected, rtol=0.1, atol=0.1)


def test_names_belong_to_packed_weights() -> None:
    with pytest.raises(InputError, match="'packed'"):
        hetsched.attach(qwen3_moe(), cpu_kernel="packed", **ON_CPU)
    with pytest.raises(InputError, match="fused-bf16"):
        hetsched.attach(pack(qwen3_moe(), "q8_0", "q8_0"), cpu_kernel="fused-bf16", **ON_CPU)
