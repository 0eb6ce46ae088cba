"""Expert modules without a model around them: a few layers of one class, random weights, any routing.

Shapes: T tokens, K top-k, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from hetsched.machine import gallery
from hetsched.packed import parameter_names

from .tiny import randomised

# Both lanes work, and copies move.
EMULATED: dict[str, Any] = {
    "hardware": gallery.machine("rtx-4060-laptop-8gb"),  # reading its file takes longer than a test
    "time_scale": 1.0,
    "gpu_memory": "50%",
    "policy": "hybrimoe",
}
HIDDEN, FFN, EXPERTS = 32, 24, 8
CONFIG: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "moe_hidden_size": 40,
    "moe_latent_size": 20,
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size"), FFN),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("hidden_act", "hidden_activation"), "silu"),
    "mlp_hidden_act": "relu2",
    "post_norm_eps": 1e-6,
    # small enough to clamp some of what a random expert gives
    "swiglu_limit": 1.0,
    "swiglu_alpha": 1.702,
    "mlp_gate_softcap": 2.0,
    "mlp_up_softcap": 2.0,
}


class Stack(torch.nn.Module):
    """Expert modules one after another, each given the same tokens and routing; the sum of what they say."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self.config = layers[0].config

    def forward(self, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(hidden_TH, ids_TK, weights_TK) for layer in self.layers])


def config(**changes: Any) -> PreTrainedConfig:
    """A config with every size that an experts class may ask for."""
    return PreTrainedConfig(**(CONFIG | changes), experts_implementation="eager")


def stack(kind: Any, layers: int = 2, **changes: Any) -> Stack:
    """A stack of one class."""
    made = Stack(*(kind(config(**changes)) for _ in range(layers)))
    randomised(made)
    return made


def width(module: Any) -> int:
    """The width of what a module's experts take, from its tensors."""
    up = getattr(module, parameter_names(module)[0])
    return int(up.shape[1 if module.is_transposed else 2])


def routing(tokens: int, experts: int = EXPERTS, top_k: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct random ids [T, K] and positive weights [T, K]."""
    random = torch.Generator().manual_seed(seed)
    ids_TK = torch.rand((tokens, experts), generator=random).argsort(dim=1)[:, :top_k].contiguous()
    return ids_TK, torch.rand((tokens, top_k), generator=random) + 0.1


def hidden(module: Any, tokens: int) -> torch.Tensor:
    """Random hidden states [T, H] for a module, in fp32."""
    return torch.randn((tokens, width(module)), generator=torch.Generator().manual_seed(1))
