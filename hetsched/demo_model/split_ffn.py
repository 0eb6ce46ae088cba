"""The sparse feed-forward block while it is being fitted: one dense block whose neurons are masked per token.

Neurons are in their final order: first those of the shared expert, then expert after expert. A mask over the neurons
computes what the experts would, without gathering tokens, and trains like a dense block.

Shapes: T tokens, H hidden, F neurons of all experts (F = shared + E·W; one that several experts have counts in each),
E experts, W neurons of an expert, K top-k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class SplitShape:
    """How many experts, how wide each is in neurons, how many are active per token, and how many have each neuron.

    A width that is a multiple of 32 is one that checkpoint formats of blocks can store.
    """

    experts: int = 16
    width: int = 64
    top_k: int = 4
    copies: int = 4

    def shared(self, ffn: int) -> int:
        """Neurons left to the shared expert out of `ffn`."""
        return ffn - self.experts * self.width // self.copies


class SplitFfn(nn.Module):
    """A gated feed-forward block, `down(silu(gate(x)) * up(x))`, with the neurons of inactive experts left out.

    `gate_FH`, `up_FH` float32 [F, H], `down_HF` [H, F], `router_EH` [E, H]; `order_F` tells which
    neuron of the dense block each one was. The input is the normed hidden state.
    """

    def __init__(self, mlp: Any, order_F: torch.Tensor, router_EH: torch.Tensor, shape: SplitShape) -> None:
        """Take from a dense block `mlp` the neurons `order_F`, int64 [F]; one in several experts is there in each."""
        super().__init__()
        self.gate_FH = nn.Parameter(mlp.gate_proj.weight.detach()[order_F].clone())
        self.up_FH = nn.Parameter(mlp.up_proj.weight.detach()[order_F].clone())
        self.down_HF = nn.Parameter(mlp.down_proj.weight.detach()[:, order_F].clone())
        self.order_F = order_F
        self.router_EH = nn.Parameter(router_EH.clone(), requires_grad=False)
        self.shape = shape
        self.top_k = shape.top_k

    @property
    def shared_neurons(self) -> int:
        """Neurons of the shared expert, which come first."""
        return self.gate_FH.shape[0] - self.shape.experts * self.shape.width

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        """Activation of every neuron, before the mask: [..., F] from hidden states [..., H]."""
        return functional.silu(functional.linear(x, self.gate_FH)) * functional.linear(x, self.up_FH)

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """1 for each neuron active at a token, else 0: [..., F] from hidden states [..., H]."""
        chosen = functional.linear(x, self.router_EH).topk(self.top_k, dim=-1).indices
        experts = torch.zeros(*x.shape[:-1], self.shape.experts).scatter_(-1, chosen, 1.0)
        shared = torch.ones(*x.shape[:-1], self.shared_neurons)
        return torch.cat([shared, experts.repeat_interleave(self.shape.width, dim=-1)], dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., H] from normed hidden states [..., H]."""
        return functional.linear(self.activations(x) * self.mask(x), self.down_HF)
