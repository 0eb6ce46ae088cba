"""Which neurons go where: the always active ones into the shared expert, the rest into experts of equal size.

Shapes: T tokens, F ffn neurons, R routed neurons (R·C = E·W), C copies of each, E experts, W neurons of an expert, H
hidden.
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
    """Neurons, int64: the shared expert's first, then those of expert 0, 1, ...; a routed one `shape.copies` times.

    `activations_TF` are the neurons' activations, `down_HF` the down-projection, `first_T` bool: tokens at
    position 0 of their row.
    """
    contribution_TF = activations_TF.abs() * down_HF.norm(dim=0)
    energy_F = contribution_TF.square().mean(0)
    sinks = contribution_TF[first_T].amax(0).topk(min(SINK_NEURONS, shape.shared(len(energy_F)))).indices
    energy_F[sinks] = float("inf")
    by_energy_F = energy_F.argsort(descending=True, stable=True)
    shared, routed = by_energy_F.tensor_split([shape.shared(len(energy_F))])
    step = max(1, len(contribution_TF) // CLUSTER_TOKENS)
    labels_CR = balanced_clusters(contribution_TF[::step, routed].T, shape.experts, seed, shape.copies)
    return torch.cat([shared, *(routed[(labels_CR == expert).any(0)] for expert in range(shape.experts))])


def balanced_clusters(profile_RT: torch.Tensor, clusters: int, seed: int, copies: int = 1) -> torch.Tensor:
    """Clusters of each row, int64 [copies, R], all clusters of exactly the same size: spherical k-means.

    `profile_RT` float [R, T]: neurons that contribute at the same tokens belong together. R must be a multiple of
    `clusters`. A row's further clusters are those it is like next after its own.
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
    labels_CR = [labels_R]
    likeness_RE = unit_RT @ centre_ET.T
    for _ in range(copies - 1):
        likeness_RE.scatter_(1, labels_CR[-1][:, None], -torch.inf)
        labels_CR.append(apart(balanced_assignment(likeness_RE), torch.stack(labels_CR)))
    return torch.stack(labels_CR)


def apart(labels_R: torch.Tensor, taken_CR: torch.Tensor) -> torch.Tensor:
    """The labels, where a row had to take one that it has already exchanged with another row's."""
    for row in (labels_R == taken_CR).any(0).nonzero().flatten().tolist():
        fits_R = (taken_CR != labels_R[row]).all(0) & (labels_R[:, None] != taken_CR[:, row]).all(1)
        other = int(fits_R.int().argmax())
        labels_R[[row, other]] = labels_R[[other, row]]
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
