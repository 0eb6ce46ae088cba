"""Models for `hetsched bench --cpu-only`: the demo model if built, a small one, and one with a large model's experts.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Subject(NamedTuple):
    """A model to measure: `make()` loads or builds it anew, always with the same weights."""

    name: str
    dtype: str
    make: Callable[[], Any]


def subjects() -> Iterator[Subject]:
    """Every model that can be measured here. The demo model is only taken where it has been built."""
    from hetsched.machine.demo_geometry import cached_folder

    folder = cached_folder()
    if (folder / "config.json").is_file():
        yield Subject("demo", "fp32", partial(_loaded, folder))
    for dtype in DTYPES:
        yield Subject("qwen3_moe, 64 experts of 256 x 128", dtype, partial(random_qwen3_moe, dtype))
    yield Subject("Qwen3-30B-A3B's experts, 1 layer", "bf16", partial(random_qwen3_moe, "bf16", 128, 2048, 768, 1))


def random_qwen3_moe(dtype: str, experts: int = 64, hidden: int = 256, ffn: int = 128, layers: int = 2) -> Any:
    """A Qwen3-MoE with top-8 routing and a small vocabulary; four different random experts, repeated."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=ffn,
        moe_intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 4),
        num_key_value_heads=4,
        head_dim=64,
        num_experts=experts,
        num_experts_per_tok=8,
        experts_implementation="eager",
    )
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(config)
    model = model.to(DTYPES[dtype]).to_empty(device="cpu").eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, random)
        rotary: Any = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(config)
    return model


def _fill(name: str, parameter: torch.Tensor, random: torch.Generator) -> None:
    if parameter.ndim == 1:
        parameter.fill_(1.0)
        return
    scale = parameter.shape[-1] ** -0.5
    if parameter.ndim == 2:
        parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
        return
    few = torch.randn((4, *parameter.shape[1:]), generator=random) * scale
    for e in range(len(parameter)):
        parameter[e].copy_(few[e % len(few)])


def _loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")
    return model.eval()
