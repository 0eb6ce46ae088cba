"""Layers by chosen kernels: the formula within rounding, whatever mix of kernels the token counts ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hetsched.cpu_kernels import Choice, make_kernels, parse_choice
from hetsched.engine.cpu_layer import ExactExperts
from hetsched.engine.cpu_measured import MeasuredExperts, swiglu_weights
from hetsched.engine.expert_ffn import PLAIN
from hetsched.measure import layer_kernels
from hetsched.measure.timing import Timing
from tests.cpu_only.experts import by_expert, eager, gpt_oss_experts, qwen3_experts, routing, weights_of

AVAILABLE = [kernel.name for kernel in make_kernels("bf16")]
SPECS = [
    spec
    for spec in ("torch-bf16", "fused-bf16", "upcast", "fused-bf16@1+upcast@5", "upcast@1+fused-bf16@3")
    if all(part.partition("@")[0] in AVAILABLE for part in spec.split("+"))
]


def measured(module: Any, choice: Choice) -> MeasuredExperts:
    weights_E = weights_of(module)
    return MeasuredExperts(module, weights_E, choice, ExactExperts(module, weights_E))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", [qwen3_experts, gpt_oss_experts])
def test_every_choice_computes_the_formula(spec: str, make: Any) -> None:
    """Within bf16's rounding of double precision, for plain SwiGLU and for experts of another kind."""
    module = make(8, 96, 40, torch.bfloat16)
    wide = make(8, 96, 40, torch.float64)
    for name, parameter in wide.named_parameters():
        parameter.copy_(getattr(module, name))
    layer = measured(module, parse_choice(spec, "bf16"))
    for tokens in (1, 3, 30):
        hidden_TH, (ids, weights) = torch.randn(tokens, 96).bfloat16(), routing(tokens, 8, torch.bfloat16)
        if tokens > 1 and make is qwen3_experts:  # an id of nobody, which gpt-oss's eager refuses
            ids[-1, -1] = 8
        expected = eager(wide, hidden_TH.double(), ids, weights.double())
        found = layer.forward(hidden_TH, by_expert(ids, weights, 8), PLAIN)
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).norm() <= 16 * torch.finfo(torch.bfloat16).eps * expected.norm()


def test_torch_s_own_product_is_computed_as_eager_does() -> None:
    """Where measurement finds torch's bf16 product fastest throughout, nothing is lost against eager: the same bits."""
    module = qwen3_experts(8, 64, 32, torch.bfloat16)
    hidden_TH, (ids, weights) = torch.randn(7, 64).bfloat16(), routing(7, 8, torch.bfloat16)
    found = measured(module, parse_choice("torch-bf16", "bf16")).forward(hidden_TH, by_expert(ids, weights, 8), PLAIN)
    assert torch.equal(found, eager(module, hidden_TH, ids, weights))


def test_only_plain_swiglu_takes_the_swiglu_kernels() -> None:
    """Another activation, bias or layout, or fp32 weights, would be computed wrongly by them."""
    plain = qwen3_experts(4, 32, 16, torch.bfloat16)
    assert len(swiglu_weights(plain, weights_of(plain))) == 4
    for other in (
        qwen3_experts(4, 32, 16, torch.bfloat16, act="gelu"),
        qwen3_experts(4, 32, 16, torch.float32),
        gpt_oss_experts(4, 32, 16, torch.bfloat16),
    ):
        assert swiglu_weights(other, weights_of(other)) == []


def test_kernels_are_chosen_on_the_models_own_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each count's winner is the kernel whose layer took least; every call names experts of the layer."""
    seconds = {"torch-bf16": (1.0, 4.0), "upcast": (2.0, 1.0), "fused-bf16": (3.0, 2.0)}
    seen: list[int] = []

    def pretend(calls: Any, budget_s: float) -> Any:
        for call in calls:
            for number in range(5):
                call(number)
        place = len(seen)
        seen.append(len(calls))
        names = [kernel.name for kernel in make_kernels("bf16")]
        return [Timing(seconds[name][place], 0.0, 0.0, 5) for name in names]

    monkeypatch.setattr(layer_kernels, "time_together", pretend)
    choice = layer_kernels.choose_layer_kernels(qwen3_experts(6, 64, 32, torch.bfloat16), "bf16", tokens=(1, 16))
    assert choice.spec == "torch-bf16@1+upcast@16"
    assert layer_kernels.choose_layer_kernels(qwen3_experts(6, 64, 32, torch.float32), "fp32").spec == "torch-fp32@1"
