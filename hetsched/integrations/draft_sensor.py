"""DraftSensor: what an attached model's routers say of tokens that are about to be verified, told to its engine.

A model that drafts for itself runs its own layers on the drafted tokens: the experts that each pass chose, by their
router weights, are what the verify step will ask for, as far as the pass was right. They are told after every pass, so
that copies set out while the next is made. Of the last draft no pass knows. Whoever else drafts, the routers are asked
about the tokens' embeddings: the first layers', up to a cut-off. Beyond it nothing is said.

Shapes: D tokens of the verify step, the one before the drafts first; L layers, E experts, T tokens, K top-k, H width.
"""

from __future__ import annotations

from time import thread_time
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..speculation.cut_off import last_in_time
from ..traces.routers import Routers
from ..types import Float32Array
from .expert_modules import expert_modules
from .model_shape import layers_of
from .routers import routers_of

_LEAST = 1e-6  # of a chosen expert's weight, which 0 would make one of nobody


class DraftSensor:
    """`routers`: of the model, to be asked about embeddings; None: its draft passes are watched instead."""

    def __init__(self, attachment: Any, model: Any, routers: Routers | None) -> None:
        self._engine, self._model, self._routers = attachment.engine, model, routers
        self._cost, self._stats = attachment.scheduler.cost, attachment.scheduler.stats
        self._shape = attachment.scheduler.geometry  # which the seconds may be another model's than
        self._seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # of this pass: layer, ids, weights
        self._passes: list[Float32Array] = []  # router weights [L, E] of the experts that each chose

    def saw(self, layer: int, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> None:
        """One layer of a draft pass, of which the last token is drafted for."""
        self._seen.append((layer, ids_TK[-1].detach(), weights_TK[-1].detach()))

    def passed(self, left: int) -> None:
        """A draft pass has ended, the first of `left`; after the last one ids are told."""
        begun_s = thread_time()
        self._passes.append(self._chosen_LE())
        self._seen = []
        if left > 1:
            self._engine.foresee(self._chosen_DLE(len(self._passes) + left), begun_s)

    def tell(self, ids: list[int]) -> None:
        """These tokens are verified next."""
        begun_s = thread_time()
        told_DLE = self._chosen_DLE(len(ids)) if self._routers is None else self._embedded_DLE(self._routers, ids)
        self._passes = []
        if told_DLE.any():
            self._engine.foresee(told_DLE, begun_s)

    def _nothing_DLE(self, tokens: int) -> Float32Array:
        return np.zeros((tokens, self._shape.num_layers, self._shape.num_experts), np.float32)

    def _chosen_DLE(self, tokens: int) -> Float32Array:
        """What passes chose, and nothing of tokens that had none."""
        said_DLE = self._nothing_DLE(tokens)
        for said_LE, chosen_LE in zip(said_DLE, self._passes, strict=False):
            said_LE[:] = chosen_LE
        return said_DLE

    def _chosen_LE(self) -> Float32Array:
        """Of the pass that has ended; ids of no expert here are left out."""
        said_LE: Float32Array = self._nothing_DLE(1)[0]
        if self._seen:
            layers_N = np.array([layer for layer, _, _ in self._seen])
            ids_NK = torch.stack([ids_K for _, ids_K, _ in self._seen]).cpu().numpy()
            weights_NK = torch.stack([weights_K for _, _, weights_K in self._seen]).float().cpu().numpy()
            n_P, k_P = np.nonzero(ids_NK < said_LE.shape[1])
            said_LE[layers_N[n_P], ids_NK[n_P, k_P]] = np.maximum(weights_NK[n_P, k_P], _LEAST)
        return said_LE

    def _embedded_DLE(self, routers: Routers, ids: list[int]) -> Float32Array:
        """What the routers up to the cut-off say of embeddings."""
        said_DLE = self._nothing_DLE(len(ids))
        layers, experts = range(self._cut_off(len(ids)) + 1), said_DLE.shape[2]
        table = self._model.get_input_embeddings()
        with torch.no_grad():
            embedded_TH = table(torch.tensor(ids, device=table.weight.device)).float().cpu().numpy()
        said_DLE[:, : len(layers)] = routers.of_embedded(layers, embedded_TH, experts).transpose(1, 0, 2)
        return said_DLE

    def _cut_off(self, tokens: int) -> int:
        """The last layer that copies can be in time for, at least the first: what is late is as good as never asked.

        By the misses and the seconds of a layer so far.
        """
        stats, cost = self._stats, self._cost
        ran = max(stats.layers, 1)
        missing_L = np.full(self._shape.num_layers, (stats.active - stats.hits) / ran)
        due_s, layer_s = cost.dense_s(tokens), stats.total_s / ran
        return max(0, last_in_time(missing_L, cost.copy_s(), 0.0, due_s, layer_s))


def sensor_of(attachment: Any, model: Any, *, sees_passes: bool) -> DraftSensor | None:
    """For an attachment whose forecaster asks for drafts; None for any other.

    Raises InputError where embeddings are needed, and the model has no table of them or routers that cannot be asked.
    """
    if not attachment.scheduler.can_foresee:
        return None
    if sees_passes:
        return DraftSensor(attachment, model, None)
    if not isinstance(model.get_input_embeddings(), torch.nn.Embedding):
        raise InputError(
            f"{type(model).__name__} has no table of embeddings to ask its routers about; draft with 'self', or choose "
            "a forecaster that needs ids only, for instance transition"
        )
    return DraftSensor(attachment, model, routers_of(model, layers_of(expert_modules(model))))
