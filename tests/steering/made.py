"""What the tests of steering share: a steering for a model at hand, and what its experts are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.model_shape import geometry_of, layers_of
from hetsched.steering.file import Forced, SteeredShape, Steering

Asked = dict[int, list[tuple[torch.Tensor, torch.Tensor]]]


def shape_of(model: Any, top_k: int) -> SteeredShape:
    """As its modules have it."""
    geometry = geometry_of([tied[0] for tied in layers_of(expert_modules(model))], model.config)
    return SteeredShape(geometry.num_layers, geometry.num_experts, top_k, geometry.hidden)


def steering_for(model: Any, layers: dict[int, Forced], top_k: int = 4, **more: Any) -> Steering:
    """A steering of this model."""
    return Steering("tiny", shape_of(model, top_k), layers, **more)


@contextlib.contextmanager
def asked_of(model: Any) -> Iterator[Asked]:
    """Ids and weights that the experts of each layer are given, [T, K] each, a pair for every call."""
    seen: Asked = {}

    def watch(layer: int) -> Any:
        def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), args, strict=False)) | kwargs
            seen.setdefault(layer, []).append((given["top_k_index"].clone(), given["top_k_weights"].clone()))

        return see

    hooks = [
        module.register_forward_pre_hook(watch(layer), with_kwargs=True)
        for layer, tied in enumerate(layers_of(expert_modules(model)))
        for module in tied
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def contrary(seen: Asked, experts: int) -> dict[int, Forced]:
    """The two least chosen experts of each layer on, and the most chosen off, as many as can be, at most three."""
    forced = {}
    for layer, calls in seen.items():
        ids = torch.cat([ids_TK.reshape(-1) for ids_TK, _ in calls])
        top_k = calls[0][0].shape[-1]
        order = torch.bincount(ids, minlength=experts).argsort().tolist()
        off = min(3, experts - top_k)
        forced[layer] = Forced(tuple(sorted(order[: min(2, top_k)])), tuple(sorted(order[experts - off :])))
    return forced


def broken(seen: Asked, layers: dict[int, Forced]) -> list[str]:
    """Calls in which a token was spared an expert forced on, or given one forced off."""
    found = []
    for layer, forced in layers.items():
        for ids_TK, _ in seen[layer]:
            found += [f"layer {layer}: {e} is not on" for e in forced.activate if not (ids_TK == e).any(-1).all()]
            found += [f"layer {layer}: {e} is not off" for e in forced.deactivate if (ids_TK == e).any()]
    return found
