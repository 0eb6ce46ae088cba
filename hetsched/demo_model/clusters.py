"""Which neurons go where: the always active ones into the shared expert, the rest into experts of equal size.

Shapes: T tokens, F ffn neurons, R routed neurons (R = E·W), E experts, W neurons of an expert, H hidden.
"""

from __future__ import annotations

import torch

from hetsched.demo_model.split_ffn import SplitShape

SINK_NEURONS = 16  # neurons that make the attention sink at position 0 for all later positions
ROUNDS = 8
CLUSTER_TOKENS = 3072  # a sample of the tokens, for speed


def neuron_order(
    activations_TF: torch.Tensor, down_HF: torch.Tensor, first_T: torch.Tensor, shape: SplitShape, seed: int
) -> torch.Tensor:
    """Permutation of the neurons, int64 [F]: the shared expert's first, then those of expert 0, 1, ...

    `activations_TF` are the neurons' activations, `down_HF` the down-projection, `first_T` bool: tokens at
    position 0 of their row.
    """
    contribution_TF = activations_TF.abs() * down_HF.norm(dim=0)
    energy_F = contribution_TF.square().mean(0)
    sinks = contribution_TF[first_T].amax(0).topk(min(SINK_NEURONS, shape.shared(len(energy_F)))).indices
    energy_F[sinks] = float("inf")
    by_energy_F = energy_F.argsort(descending=True, stable=True)
    shared, routed = by_energy_F.split([shape.shared(len(energy_F)), shape.experts * shape.width])
    step = max(1, len(contribution_TF) // CLUSTER_TOKENS)
    profile_RT = contribution_TF[::step, routed].T
    labels_R = balanced_clusters(profile_RT, shape.experts, seed)
    return torch.cat([shared, routed[labels_R.argsort(stable=True)]])


def balanced_clusters(profile_RT: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    """Cluster of each row, int64 [R], all clusters of exactly the same size: spherical k-means.

    `profile_RT` float [R, T]: neurons that contribute at the same tokens belong together. R must be a multiple of
    `clusters`.
    """
    unit_RT = profile_RT - profile_RT.mean(0)  # what all neurons do at a token says nothing about which go together
    unit_RT = unit_RT / unit_RT.norm(dim=1, keepdim=True).clamp_min(1e-12)
    draw = torch.Generator().manual_seed(seed)
    centre_ET = unit_RT[torch.randperm(len(unit_RT), generator=draw)[:clusters]]
    labels_R = torch.zeros(len(unit_RT), dtype=torch.int64)
    for _ in range(ROUNDS):
        labels_R = balanced_assignment(unit_RT @ centre_ET.T)
        centre_ET = torch.zeros_like(centre_ET).index_add_(0, labels_R, unit_RT)
        centre_ET = centre_ET / centre_ET.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return labels_R


def balanced_assignment(likeness_RE: torch.Tensor) -> torch.Tensor:
    """Column of each row, int64 [R], each column taken exactly R/E times: greedy, the best pair left first."""
    rows, columns = likeness_RE.shape
    room = [rows // columns] * columns
    label = [-1] * rows
    for pair in likeness_RE.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(pair, columns)
        if label[row] < 0 and room[column]:
            label[row] = column
            room[column] -= 1
    return torch.tensor(label)
