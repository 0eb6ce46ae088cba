"""The router: a linear map from the hidden state to the experts that would contribute most.

Shapes: T tokens, H hidden, E experts, W neurons of an expert, R routed neurons (R = E·W), K top-k.
"""

from __future__ import annotations

import torch
from torch.nn import functional

STEPS = 60
LEARNING_RATE = 2e-2
RIDGE = 1e-2  # of the mean diagonal


def expert_energy(activations_TR: torch.Tensor, down_HR: torch.Tensor, experts: int) -> torch.Tensor:
    """Squared length of what each expert would add to the hidden state: float [T, E]."""
    energies = [
        functional.linear(activations, down).square().sum(1)
        for activations, down in zip(activations_TR.chunk(experts, dim=1), down_HR.chunk(experts, dim=1), strict=True)
    ]
    return torch.stack(energies, dim=1)


def fit_router(x_TH: torch.Tensor, energy_TE: torch.Tensor, top_k: int) -> torch.Tensor:
    """Router weights, float [E, H], with logits of unit scale: ridge regression, then cross-entropy to the top-k.

    `x_TH` are normed hidden states, `energy_TE` what each expert would contribute. A token counts by how much its
    choice matters.
    """
    length_TE = energy_TE.sqrt()
    share_TE = length_TE / length_TE.mean(dim=1, keepdim=True).clamp_min(1e-12)
    weight_EH = _ridge(x_TH, share_TE - share_TE.mean(0))
    best = energy_TE.topk(top_k, dim=1)
    goal_TE = torch.zeros_like(energy_TE).scatter_(1, best.indices, 1.0 / top_k)
    return _sharpen(weight_EH, x_TH, goal_TE)


def _ridge(x_TH: torch.Tensor, goal_TE: torch.Tensor) -> torch.Tensor:
    gram_HH = x_TH.T @ x_TH
    gram_HH.diagonal().add_(RIDGE * gram_HH.diagonal().mean())
    weight_HE: torch.Tensor = torch.linalg.solve(gram_HH, x_TH.T @ goal_TE)
    return weight_HE.T.contiguous()


def _sharpen(weight_EH: torch.Tensor, x_TH: torch.Tensor, goal_TE: torch.Tensor) -> torch.Tensor:
    """Weights after some steps of Adam on the cross-entropy to `goal_TE`; at unit scale of the logits."""
    scale = 1.0 / functional.linear(x_TH, weight_EH).std().clamp_min(1e-12)
    # Hidden dimensions differ widely in size; in units of their own size one learning rate suits all.
    size_H = x_TH.square().mean(0).sqrt().clamp_min(1e-6)
    units_TH = x_TH / size_H
    scaled_EH = (weight_EH * size_H * scale).requires_grad_(True)
    optimiser = torch.optim.Adam([scaled_EH], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        functional.cross_entropy(functional.linear(units_TH, scaled_EH), goal_TE).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    learned_EH = scaled_EH.detach() / size_H
    return learned_EH / functional.linear(x_TH, learned_EH).std().clamp_min(1e-12)
