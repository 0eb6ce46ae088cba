"""The conversion: layer after layer, the dense blocks become sparse ones, each fitted on what the ones before it left.

Shapes: N rows, S positions of a row, T tokens (T = N·S), B rows or tokens of one batch, H hidden, F neurons (of the
dense block, or of all experts), D neurons without copies.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from hetsched.demo_model.calibration import SEED, Calibration
from hetsched.demo_model.clusters import neuron_order
from hetsched.demo_model.progress import Tick
from hetsched.demo_model.router import fit_router, membership
from hetsched.demo_model.split_ffn import SplitFfn, SplitShape

BATCH = 16  # rows of one pass through the attention
CATCH_UP = 0.5  # part of the earlier blocks' error that a block is to make up for; all of it fitted held-out text worse
TOKENS = 2048  # of one pass through the feed-forward block
SHARED_OUT_STEP = 4  # tokens looked at to share out a neuron: every fourth, for speed


@dataclass(frozen=True)
class Streams:
    """The residual streams of both models after the last layer over all calibration rows: [N, S, H] each."""

    dense_NSH: torch.Tensor
    sparse_NSH: torch.Tensor


@torch.no_grad()
def convert(dense: Any, calibration: Calibration, shape: SplitShape, tick: Tick) -> tuple[Any, Streams]:
    """The sparse model, a copy of `dense` whose `mlp` blocks are `SplitFfn`, and where both models' streams end."""
    model = copy.deepcopy(dense)
    x_NSH = model.model.embed_tokens(calibration.tokens_NS)
    goal_NSH = x_NSH.clone()
    rope = model.model.rotary_emb(x_NSH, torch.arange(x_NSH.shape[1])[None])
    for index, (layer, old) in enumerate(zip(model.model.layers, dense.model.layers, strict=True)):
        for x_BSH, goal_BSH in zip(x_NSH.split(BATCH), goal_NSH.split(BATCH), strict=True):
            attend(layer, x_BSH, rope)
            attend(old, goal_BSH, rope)
            goal_BSH += old.mlp(old.post_attention_layernorm(goal_BSH))
        layer.mlp, added_NSH = fit_layer(layer, x_NSH, goal_NSH[: calibration.fit_rows], shape, SEED + index)
        x_NSH += added_NSH
        tick((index + 1) / len(model.model.layers))
    return model, Streams(goal_NSH, x_NSH)


def attend(layer: Any, x_BSH: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Add to the residual stream [B, S, H], in place, what the attention half of a layer does."""
    added_BSH, _ = layer.self_attn(layer.input_layernorm(x_BSH), position_embeddings=rope, attention_mask=None)
    x_BSH += added_BSH


def fit_layer(
    layer: Any, x_NSH: torch.Tensor, goal_NSH: torch.Tensor, shape: SplitShape, seed: int
) -> tuple[SplitFfn, torch.Tensor]:
    """The sparse block that takes the place of `layer.mlp`, and what it adds to the stream: [N, S, H].

    `x_NSH` is the sparse model's residual stream before the block, `goal_NSH` the dense model's after it, on the
    first rows only: these are fitted to. The block makes up for its own missing neurons, and for part of what
    earlier blocks got wrong.
    """
    normed_TH = layer.post_attention_layernorm(x_NSH).flatten(0, 1)
    fit = slice(goal_NSH.shape[0] * goal_NSH.shape[1])
    activations_TF = torch.empty(len(normed_TH), layer.mlp.gate_proj.out_features)
    # Batch by batch into one buffer: fresh memory of this size costs more than the arithmetic on it.
    for into_BF, x_BH in zip(*_batches(activations_TF, normed_TH), strict=True):
        torch.mul(layer.mlp.act_fn(layer.mlp.gate_proj(x_BH)), layer.mlp.up_proj(x_BH), out=into_BF)
    block = split_block(layer.mlp, normed_TH[fit], activations_TF[fit], goal_NSH.shape[1], shape, seed)
    masked_TF = torch.empty(len(normed_TH), len(block.order_F))
    for into_BF, batch_BF, x_BH in zip(*_batches(masked_TF, activations_TF, normed_TH), strict=True):
        torch.mul(batch_BF[:, block.order_F], block.mask(x_BH), out=into_BF)
    own_TH = functional.linear(activations_TF[fit], layer.mlp.down_proj.weight)
    x_TH = x_NSH.flatten(0, 1)[fit]
    missing_TH = CATCH_UP * (goal_NSH.flatten(0, 1) - x_TH) + (1 - CATCH_UP) * own_TH
    block.down_HF.mul_(shared_out(masked_TF[fit][::SHARED_OUT_STEP], block.order_F))
    missing_TH -= functional.linear(masked_TF[fit], block.down_HF)
    # The next norm divides by the stream's size, so an error counts relative to it; the attention sink's is huge.
    weight_T = x_TH.square().mean(1).rsqrt()
    block.down_HF.copy_(refit_down(masked_TF[fit], missing_TH, weight_T, block.down_HF))
    return block, functional.linear(masked_TF, block.down_HF).view_as(x_NSH)


def shared_out(masked_TF: torch.Tensor, order_F: torch.Tensor) -> torch.Tensor:
    """What part of its down-projection each copy of a neuron is to have, so that all that are active make one: [F].

    The least squares of what they miss, over the tokens where any is active; 1 for a neuron that is there once.
    """
    sum_TD = torch.zeros(len(masked_TF), int(order_F.max()) + 1).index_add_(1, order_F, masked_TF)
    # Copies have equal activations, so with c of them active their sum is c times what it should be.
    copy_energy_F = masked_TF.square().sum(0)
    wanted_D = torch.zeros(sum_TD.shape[1]).index_add_(0, order_F, copy_energy_F)
    return (wanted_D / sum_TD.square().sum(0).clamp_min(1e-12))[order_F]


def split_block(
    mlp: Any, normed_TH: torch.Tensor, activations_TF: torch.Tensor, length: int, shape: SplitShape, seed: int
) -> SplitFfn:
    """The dense block `mlp` split into experts, with a router fitted on tokens of rows of `length`; not refitted."""
    first_T = torch.arange(len(normed_TH)) % length == 0
    order_F = neuron_order(activations_TF, mlp.down_proj.weight, first_T, shape, seed)
    neurons_D, member_DE = membership(order_F[len(order_F) - shape.experts * shape.width :], shape.experts)
    # Every second token, for speed.
    energy_TD = (activations_TF[::2, neurons_D] * mlp.down_proj.weight[:, neurons_D].norm(dim=0)).square()
    with torch.enable_grad():
        router_EH = fit_router(normed_TH[::2], energy_TD, member_DE, shape.top_k)
    return SplitFfn(mlp, order_F, router_EH, shape)


def _batches(*tensors_T: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Views of each tensor, `TOKENS` tokens each."""
    return [torch.split(tensor, TOKENS) for tensor in tensors_T]


PENALTY = 0.6  # of each diagonal entry; 0.1 fitted held-out text worse than 0.3, and that worse than 1


def refit_down(
    masked_TF: torch.Tensor,
    missing_TH: torch.Tensor,
    weight_T: torch.Tensor,
    down_HF: torch.Tensor,
    penalty: float = PENALTY,
) -> torch.Tensor:
    """Down-projection [H, F] closest to `down_HF` that adds what is missing: ridge regression around the old one.

    `masked_TF` are the activations after the mask, `missing_TH` what the block's output lacks with `down_HF`, and
    `weight_T` how much an error at each token counts. The change of a neuron is penalised by `penalty` times its own
    energy, so that rare neurons move as freely as common ones.
    """
    masked_TF = masked_TF * weight_T[:, None]
    gram_FF = masked_TF.T @ masked_TF
    energy_F = gram_FF.diagonal().clone()
    gram_FF.diagonal().add_(penalty * energy_F + 1e-6 * energy_F.mean())
    factor_FF = torch.linalg.cholesky(gram_FF)
    return down_HF + torch.cholesky_solve(masked_TF.T @ (missing_TH * weight_T[:, None]), factor_FF).T
