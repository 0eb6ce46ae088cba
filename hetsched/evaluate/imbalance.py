"""Imbalance: how unevenly a layer's tokens are shared out among its experts.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import FloatArray, IntArray

MOST_USED = 0.1  # share of the experts that "most used" means, at least one
MEANING = {
    "most_used_share": "by layer, share of all choices that fall on the most used tenth of the experts, at least one",
    "top_expert_share": "by layer, share that falls on the most used expert",
    "entropy_bits": "by layer, of the shares of its experts; max_entropy_bits where all are alike",
    "gini": "by layer, 0 where all experts are used alike, towards 1 where one takes all",
}


def imbalance(counts_LE: IntArray) -> dict[str, Any]:
    """Figures of each layer from tokens per expert, ready for JSON."""
    experts = counts_LE.shape[1]
    share_LE = counts_LE / np.maximum(counts_LE.sum(axis=1, keepdims=True), 1)
    sorted_LE = np.sort(share_LE, axis=1)[:, ::-1]
    most = max(1, int(MOST_USED * experts))
    return {
        "most_used_experts": most,
        "most_used_share": sorted_LE[:, :most].sum(axis=1).tolist(),
        "top_expert_share": sorted_LE[:, 0].tolist(),
        "entropy_bits": entropy_bits(share_LE).tolist(),
        "max_entropy_bits": float(np.log2(experts)),
        "gini": gini(share_LE).tolist(),
        "share_by_rank": sorted_LE.mean(axis=0).tolist(),
        "meaning": {**MEANING, "share_by_rank": "mean over layers of the share of the most used expert, the next, ..."},
    }


def entropy_bits(share_LE: FloatArray) -> FloatArray:
    """Shannon's entropy of each layer's shares."""
    logs_LE = np.log2(share_LE, out=np.zeros_like(share_LE), where=share_LE > 0)
    entropy_L: FloatArray = -(share_LE * logs_LE).sum(axis=1)
    return entropy_L


def gini(share_LE: FloatArray) -> FloatArray:
    """Gini's coefficient of each layer: mean difference of two experts' shares over twice the mean share."""
    experts = share_LE.shape[1]
    rank_E = np.arange(1, experts + 1)
    total_L = np.maximum(share_LE.sum(axis=1), 1e-300)
    gini_L: FloatArray = 2 * (np.sort(share_LE, axis=1) * rank_E).sum(axis=1) / (experts * total_L)
    gini_L -= (experts + 1) / experts
    return gini_L
