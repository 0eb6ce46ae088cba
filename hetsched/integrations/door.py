"""The door: from the call of an adopted expert module to the engine, directly or as one operator of a compiled graph.

Shapes: T tokens, K top-k, E experts, H hidden.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch

from ..engine.layer_work import LayerInput, cast_dtype
from ..errors import InputError
from .places import Place, place_of
from .torch_modes import is_compiling_around, not_compiled, without_gradient

_OPENED: dict[int, weakref.ref[Place]] = {}  # by number, which is all that a compiled graph can hold
_LIBRARY = torch.library.Library("hetsched", "DEF")
_LIBRARY.define(
    "experts(Tensor hidden_TH, Tensor ids_TK, Tensor weights_TK, int number, ScalarType? cast_to) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else (),
)


def open_door(module: Any, place: Place) -> None:
    """From now on the module's calls come here, past transformers' dispatch.

    A `forward` that somebody else has put on the module stays: it ends in the class's own, which asks the config.
    """
    _OPENED[place.number] = weakref.ref(place, partial(_OPENED.pop, place.number))
    module.__dict__.setdefault("forward", partial(enter, place))


def close_door(module: Any) -> None:
    """The module is called as its class says again. May be called twice."""
    forward = module.__dict__.get("forward")
    if isinstance(forward, partial) and forward.func is enter:
        del module.__dict__["forward"]


def enter(place: Place, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
    """The experts' sum [T, H]: what an adopted module's forward is.

    Router weights may also come for all experts, [T, E]; those of the chosen are then picked by id. In a graph that
    torch.compile makes it is one operator; with gradients asked for, a break, after which nothing differs from eager.
    """
    cast_to = cast_dtype(hidden_TH.device)
    if torch.compiler.is_dynamo_compiling() and not torch.is_grad_enabled():
        operator: torch.Tensor = torch.ops.hetsched.experts(hidden_TH, ids_TK, weights_TK, place.number, cast_to)
        return operator
    if torch.compiler.is_dynamo_compiling() or is_compiling_around():
        return _uncompiled(place, hidden_TH, ids_TK, weights_TK, cast_to)
    return _served(place, hidden_TH, ids_TK, weights_TK, cast_to)


def _served(
    place: Place,
    hidden_TH: torch.Tensor,
    ids_TK: torch.Tensor,
    weights_TK: torch.Tensor,
    cast_to: torch.dtype | None,
) -> torch.Tensor:
    module, attachment, arithmetic = place.module(), place.attachment, place.arithmetic
    learning = torch.is_grad_enabled()
    if learning and module.training:
        raise InputError("hetsched runs inference only; call model.eval() or detach() before training")
    if arithmetic is None:
        if place_of(module) is not place:  # detached since; whoever wrapped this door has kept it
            own: torch.Tensor = type(module).forward(module, hidden_TH, ids_TK, weights_TK)
            return own
        arithmetic = attachment.take(module, place)
    if not attachment.in_step:  # outside of the model's own forward pass, and so nobody has looked yet
        attachment.look()
    if weights_TK.shape[1] == module.num_experts != ids_TK.shape[1]:
        weights_TK = weights_TK.gather(1, ids_TK.clamp(max=module.num_experts - 1))
    work = LayerInput(place.layer, module, hidden_TH, ids_TK, weights_TK, arithmetic, cast_to)
    out_TH = attachment.engine.forward(work)
    place.calls += 1
    return without_gradient(out_TH, [hidden_TH, weights_TK, *module.parameters()]) if learning else out_TH


_uncompiled = not_compiled(_served)


@not_compiled
def _operator(
    hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor, number: int, cast_to: torch.dtype | None
) -> torch.Tensor:
    """The operator at run time; its result lies as `_operator_shape` says."""
    place = _OPENED[number]() if number in _OPENED else None
    if place is None:
        raise InputError("a graph compiled while the model was attached ran after detach(); compile the model again")
    return _served(place, hidden_TH, ids_TK, weights_TK, cast_to).contiguous()


def _operator_shape(
    hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor, number: int, cast_to: torch.dtype | None
) -> torch.Tensor:
    return hidden_TH.new_empty(hidden_TH.shape)


_LIBRARY.impl("experts", _operator, "CompositeExplicitAutograd")
torch.library.register_fake("hetsched::experts", _operator_shape, lib=_LIBRARY)
