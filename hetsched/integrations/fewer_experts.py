"""Fewer experts a token: how a model drafts for itself, cheaper than it would say the same.

Of a token's chosen experts those stay that are on the GPU, or the best one where none is; or the best few. The router
weights of those that stay are raised to what all of them came to. Lossy, so only for drafts, which are verified.
Shapes: T tokens, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..residency import RESIDENT, Residency

Watch = Callable[[int, torch.Tensor, torch.Tensor], None]  # layer, ids [T, K], router weights [T, K]


class FewerExperts:
    """Which of the chosen experts a draft computes. `most`: so many of the best; None: those on the GPU.

    `residency`: None where there is no GPU; then None for `most` is half of them. `watch`: shown all chosen ones.
    """

    def __init__(self, most: int | None, residency: Residency | None, watch: Watch | None = None) -> None:
        self._most = most
        self._residency = residency
        self._watch = watch

    def of(
        self, layer: int, experts: int, ids_TK: torch.Tensor, weights_TK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids with those left out replaced by `experts`, which is nobody's, and weights with the same sum."""
        if self._watch is not None:
            self._watch(layer, ids_TK, weights_TK)
        ranks_TK = weights_TK.argsort(dim=-1, descending=True).argsort(dim=-1)
        kept_TK = ranks_TK < self._few(ids_TK.shape[-1])
        if self._most is None and self._residency is not None:
            there_TK = self._there(layer, ids_TK)
            kept_TK = torch.where(there_TK.any(-1, keepdim=True), there_TK, ranks_TK == 0)
        left_TK = weights_TK * kept_TK
        scale_T1 = weights_TK.sum(-1, keepdim=True) / left_TK.sum(-1, keepdim=True)
        return torch.where(kept_TK, ids_TK, experts), (left_TK * scale_T1).to(weights_TK.dtype)

    def _few(self, top_k: int) -> int:
        return min(max(1, top_k // 2) if self._most is None else self._most, top_k)

    def _there(self, layer: int, ids_TK: torch.Tensor) -> torch.Tensor:
        residency = self._residency
        assert residency is not None, "asked for where there is a GPU"
        there_E = torch.from_numpy(residency.state_LE[layer] == RESIDENT)
        return there_E.to(ids_TK.device)[ids_TK.clamp(max=len(there_E) - 1)]


@contextmanager
def fewer_experts(attachment: Any, fewer: FewerExperts) -> Iterator[None]:
    """Context in which an attached model computes fewer experts."""
    before, attachment.fewer = attachment.fewer, fewer
    try:
        yield
    finally:
        attachment.fewer = before
