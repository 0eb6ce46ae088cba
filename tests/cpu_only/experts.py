"""Expert modules of transformers, alone, with random weights and routing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hetsched.engine.cpu_layer import TokenOrder, sort_by_expert


def qwen3_experts(experts: int, hidden: int, ffn: int, dtype: torch.dtype, act: str = "silu") -> Any:
    """A Qwen3-MoE layer's experts, eager, as use_experts_implementation leaves them."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    config = Qwen3MoeConfig(
        hidden_size=hidden, moe_intermediate_size=ffn, num_experts=experts, num_experts_per_tok=4, hidden_act=act
    )
    config._experts_implementation_internal = "eager"
    return _random(Qwen3MoeExperts(config), dtype)


def gpt_oss_experts(experts: int, hidden: int, ffn: int, dtype: torch.dtype) -> Any:
    """gpt-oss's experts: transposed, biased, interleaved and clamped."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    config = GptOssConfig(hidden_size=hidden, intermediate_size=ffn, num_local_experts=experts)
    config._experts_implementation_internal = "eager"
    return _random(GptOssExperts(config), dtype)


def _random(module: Any, dtype: torch.dtype) -> Any:
    random = torch.Generator().manual_seed(0)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * parameter.shape[-1] ** -0.5)
    return module.requires_grad_(False)


def weights_of(module: Any) -> list[dict[str, torch.Tensor]]:
    """Each expert's parameters by name."""
    names = [name for name, _ in module.named_parameters()]
    return [{name: getattr(module, name)[e] for name in names} for e in range(module.num_experts)]


def routing(tokens: int, experts: int, dtype: torch.dtype, top_k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct random ids and weights [T, K]."""
    random = torch.Generator().manual_seed(tokens)
    ids_TK = torch.rand((tokens, experts), generator=random).argsort(1)[:, :top_k].contiguous()
    return ids_TK, torch.rand((tokens, top_k), generator=random).add(0.1).to(dtype)


def by_expert(ids_TK: torch.Tensor, weights_TK: torch.Tensor, experts: int) -> TokenOrder:
    """Sorted as the engine does it; ids of `experts` or more belong to nobody."""
    tokens_E = np.bincount(ids_TK.numpy().ravel(), minlength=experts)[:experts]
    active = tokens_E.nonzero()[0]
    return sort_by_expert(ids_TK, weights_TK, active.tolist(), tokens_E[active].tolist())


def eager(module: Any, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
    """The class's own forward, below the dispatch."""
    found: torch.Tensor = type(module).forward.__wrapped__(module, hidden_TH, ids_TK, weights_TK)
    return found
