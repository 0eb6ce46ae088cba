"""transformers' continuous batching (`generate_batch`) under a scheduler gives eager's tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import hetsched
from hetsched.types import Phase
from tests.generation.generating import EMULATED, HERE, passes

PROMPTS = [[3 + i + j for j in range(2 + 3 * i)] for i in range(5)]
PLAIN = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "initializer_range": 0.3,
    "experts_implementation": "eager",
}


def made(name: str) -> Any:
    torch.manual_seed(1)
    if name == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=6)).eval()
    config = Qwen3MoeConfig(**SMALL, num_experts=8, moe_intermediate_size=24, head_dim=16)
    return Qwen3MoeForCausalLM(config).eval()


def batched(model: Any) -> list[list[int]]:
    """Five prompts, at most three in a batch and 16 tokens in a step: they join and leave on the way."""
    batching = ContinuousBatchingConfig(
        page_size=16, num_blocks=16, max_batch_tokens=16, max_requests_per_batch=3, use_async_batching=False
    )
    made = model.generate_batch(PROMPTS, PLAIN, continuous_batching_config=batching, progress_bar=False)
    return [output.generated_tokens for output in made.values()]


@pytest.mark.parametrize("options", [EMULATED, HERE], ids=["emulated", "cpu"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_tokens_are_those_of_eager(name: str, options: dict[str, Any]) -> None:
    """The same batch without a scheduler, and each prompt alone by generate()."""
    model = made(name)
    eager = batched(model)
    alone = [model.generate(torch.tensor([ids]), PLAIN)[0, len(ids) :].tolist() for ids in PROMPTS]
    with hetsched.attach(model, **options) as handle, passes(handle) as seen:
        ours = batched(model)
        stats = handle.stats()
    assert ours == eager == alone
    assert {phase for phase, _ in seen} == {Phase.UNKNOWN}
    assert stats["tokens"] == sum(tokens for _, tokens in seen) == sum(len(ids) + 5 for ids in PROMPTS)
    assert stats["eager_calls"] == 0
    assert len(seen) < sum(6 for _ in PROMPTS), "no two requests shared a step"
