"""The router: a linear map from the hidden state to the experts that would contribute most.

Shapes: T tokens, H hidden, E experts, W neurons of an expert, R their neurons (R = E·W), D those without copies, K
top-k.
"""

from __future__ import annotations

import torch
from torch.nn import functional

STEPS = 60
LEARNING_RATE = 2e-2
RIDGE = 1e-2  # of the mean diagonal


def membership(order_R: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The routed neurons, int64 [D], and 1 where an expert has one, float [D, E], from the experts' own [E·W]."""
    neurons_D = torch.tensor(sorted(set(order_R.tolist())))
    has_EWD = order_R.view(experts, -1, 1) == neurons_D
    return neurons_D, has_EWD.any(1).T.float()


def wanted_experts(energy_TD: torch.Tensor, member_DE: torch.Tensor, top_k: int) -> torch.Tensor:
    """1/K for each expert that a token had best be sent to, float [T, E].

    One after another, each time the one with most energy in neurons that none before it has (the greedy way to a
    largest cover; Nemhauser, Wolsey and Fisher, Mathematical Programming 14, 1978).
    """
    left_TD = energy_TD.clone()
    goal_TE = torch.zeros(len(energy_TD), member_DE.shape[1])
    for _ in range(top_k):
        gain_TE = torch.where(goal_TE > 0, -1.0, left_TD @ member_DE)
        best_T = gain_TE.argmax(1)
        goal_TE.scatter_(1, best_T[:, None], 1.0 / top_k)
        left_TD *= 1.0 - member_DE.T[best_T]
    return goal_TE


def fit_router(x_TH: torch.Tensor, energy_TD: torch.Tensor, member_DE: torch.Tensor, top_k: int) -> torch.Tensor:
    """Router weights, float [E, H], with logits of unit scale: ridge regression, then cross-entropy to the wanted ones.

    `x_TH` are normed hidden states, `energy_TD` what each routed neuron would contribute, squared, and `member_DE` who
    has it.
    """
    length_TE = (energy_TD @ member_DE).sqrt()
    share_TE = length_TE / length_TE.mean(dim=1, keepdim=True).clamp_min(1e-12)
    weight_EH = _ridge(x_TH, share_TE - share_TE.mean(0))
    return _sharpen(weight_EH, x_TH, wanted_experts(energy_TD, member_DE, top_k))


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
