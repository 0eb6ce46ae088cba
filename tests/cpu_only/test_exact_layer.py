"""One layer computed together has the bits of eager's loop, at every size where rounding could differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hetsched.engine import cpu_layer
from hetsched.engine.cpu_layer import ExactExperts
from hetsched.engine.expert_ffn import PLAIN, Arithmetic
from tests.cpu_only.experts import by_expert, eager, gpt_oss_experts, qwen3_experts, routing, weights_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOKENS = (1, 5, 70)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: Any) -> Iterator[int]:
    """torch's threads; the number decides where it cuts elementwise work."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("hidden", "ffn"), [(64, 32), (128, 96), (36, 20), (256, 352)])
def test_bits_are_those_of_eager(threads: int, dtype: torch.dtype, hidden: int, ffn: int) -> None:
    """From one token to many, aligned rows or not, small experts together or large ones alone."""
    module = qwen3_experts(8, hidden, ffn, dtype)
    layer = ExactExperts(module, weights_of(module))
    assert layer.together == (hidden * dtype.itemsize % 64 == 0 and ffn * dtype.itemsize % 64 == 0)
    for tokens in TOKENS:
        hidden_TH, (ids, weights) = torch.randn(tokens, hidden).to(dtype), routing(tokens, 8, dtype)
        found = layer.forward(hidden_TH, by_expert(ids, weights, 8), PLAIN)
        assert torch.equal(found, eager(module, hidden_TH, ids, weights)), f"{tokens} tokens"


def test_chunks_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is gathered at a time."""
    module = qwen3_experts(16, 64, 32, torch.float32)
    layer, hidden_TH = ExactExperts(module, weights_of(module)), torch.randn(99, 64)
    work = by_expert(*routing(99, 16, torch.float32), 16)
    whole = layer.forward(hidden_TH, work, PLAIN)
    for chunk in (64, 5000, 12000):
        monkeypatch.setattr(cpu_layer, "CHUNK", chunk)
        assert torch.equal(layer.forward(hidden_TH, work, PLAIN), whole)


def test_experts_with_biases_are_computed_alone(threads: int) -> None:
    """gpt-oss: transposed, biased, interleaved; the same bits by the slower way."""
    module = gpt_oss_experts(8, 64, 32, torch.float32)
    layer = ExactExperts(module, weights_of(module))
    assert not layer.together
    hidden_TH, (ids, weights) = torch.randn(20, 64), routing(20, 8, torch.float32)
    found = layer.forward(hidden_TH, by_expert(ids, weights, 8), PLAIN)
    assert torch.equal(found, eager(module, hidden_TH, ids, weights))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_expert_named_twice_and_one_that_is_nobodys(dtype: torch.dtype) -> None:
    """A repeated id adds twice; an id of num_experts adds nothing."""
    module = qwen3_experts(8, 64, 32, dtype)
    ids, weights = routing(12, 8, dtype)
    ids[:, 1] = ids[:, 0]
    ids[3:7, 2] = 8
    hidden_TH = torch.randn(12, 64).to(dtype)
    found = ExactExperts(module, weights_of(module)).forward(hidden_TH, by_expert(ids, weights, 8), PLAIN)
    assert torch.equal(found, eager(module, hidden_TH, ids, weights))


def test_fp32_experts_under_bf16_states() -> None:
    """Where the class computes in fp32 and adds in the states' dtype, so does the layer, experts together or not."""
    module = qwen3_experts(8, 64, 32, torch.float32)
    layer, arithmetic = ExactExperts(module, weights_of(module)), Arithmetic(compute=torch.float32)
    hidden_TH, (ids, weights) = torch.randn(9, 64).bfloat16(), routing(9, 8, torch.bfloat16)
    expected = torch.zeros(9, 64).bfloat16()
    for e in range(8):
        choice, rows = ids.T.eq(e).nonzero(as_tuple=True)
        wide = hidden_TH[rows].float()
        gate, up = torch.nn.functional.linear(wide, module.gate_up_proj[e]).chunk(2, dim=-1)
        part = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, module.down_proj[e])
        expected.index_add_(0, rows, (part * weights[rows, choice, None]).bfloat16())
    found = layer.forward(hidden_TH, by_expert(ids, weights, 8), arithmetic)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    layer.together = False
    assert torch.equal(layer.forward(hidden_TH, by_expert(ids, weights, 8), arithmetic), expected)
