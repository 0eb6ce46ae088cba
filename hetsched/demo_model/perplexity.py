"""Perplexity over rows of tokens, from the residual stream or from a whole model.

Shapes: N rows, S positions of a row, B rows of one batch, H hidden, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

BATCH = 4  # rows whose logits are in memory at once


@torch.inference_mode()
def stream_perplexity(model: Any, tokens_NS: torch.Tensor, stream_NSH: torch.Tensor) -> float:
    """Perplexity of `tokens_NS` under the logits that `model`'s head makes of the last residual stream."""
    batches = zip(torch.split(tokens_NS, BATCH), torch.split(stream_NSH, BATCH), strict=True)
    losses = [_losses(head(model, stream_BSH), tokens_BS) for tokens_BS, stream_BSH in batches]
    return math.exp(torch.cat(losses).mean().item())


@torch.inference_mode()
def model_perplexity(model: Any, tokens_NS: torch.Tensor) -> float:
    """Perplexity of `tokens_NS` under a causal language model."""
    losses = [
        _losses(model(tokens_BS, use_cache=False).logits, tokens_BS) for tokens_BS in torch.split(tokens_NS, BATCH)
    ]
    return math.exp(torch.cat(losses).mean().item())


def head(model: Any, stream_BSH: torch.Tensor) -> torch.Tensor:
    """Logits [B, S, V] from the residual stream after the last layer."""
    logits: torch.Tensor = model.lm_head(model.model.norm(stream_BSH.float()))
    return logits


def _losses(logits_BSV: torch.Tensor, tokens_BS: torch.Tensor) -> torch.Tensor:
    """Loss of each predicted token, in nats: [B·(S-1)]."""
    return functional.cross_entropy(
        logits_BSV[:, :-1].flatten(0, 1).float(), tokens_BS[:, 1:].flatten(), reduction="none"
    )
