"""The door: from the call of an adopted expert module to the engine, directly or as one operator of a compiled graph.

Shapes: T tokens, K top-k, E experts, H hidden.
"""

from __future__ import annotations

import weakref
from functools import partial
from time import thread_time
from typing import Any

import torch
from torch import is_grad_enabled
from torch.compiler import is_dynamo_compiling

from ..engine.expert_ffn import PLAIN
from ..engine.layer_work import LayerInput, cast_dtype
from ..errors import InputError
from .places import Place, place_of
from .torch_modes import any_autocast, frame_compiler, not_compiled, without_gradient

_OPENED: dict[int, weakref.ref[Place]] = {}  # by number, which is all that a compiled graph can hold
_LIBRARY = torch.library.Library("hetsched", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
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


def enter(
    place: Place,
    hidden_TH: torch.Tensor,
    ids_TK: torch.Tensor,
    weights_TK: torch.Tensor,
    cast_to: torch.dtype | None = None,
) -> torch.Tensor:
    """The experts' sum [T, H]: what an adopted module's forward is.

    Router weights may also come for all experts, [T, E]; those of the chosen are then picked by id. `cast_to`: what
    autocast casts to, for a caller that has left it.
    """
    if is_dynamo_compiling() or frame_compiler() is not None:
        return _compiled(place, hidden_TH, ids_TK, weights_TK)
    module, attachment, learning = place.module(), place.attachment, is_grad_enabled()
    if learning:
        refuse_training(module)
    if (place.arithmetic is None or not attachment.in_step) and not _looked(place, module):
        own: torch.Tensor = type(module).forward(module, hidden_TH, ids_TK, weights_TK)
        return own
    entered_s = thread_time()  # attaching, loading and reloading are no part of a layer
    if weights_TK.numel() != ids_TK.numel() and weights_TK.shape[1] == module.num_experts:
        weights_TK = weights_TK.gather(1, ids_TK.clamp(max=module.num_experts - 1))
    if attachment.fewer is not None:
        ids_TK, weights_TK = attachment.fewer.of(place.layer, module.num_experts, ids_TK, weights_TK)
    if any_autocast():  # asking for a device's own takes longer than the rest of the door
        cast_to = cast_dtype(hidden_TH.device)
    arithmetic = place.arithmetic or PLAIN
    work = LayerInput(place.layer, module, hidden_TH, ids_TK, weights_TK, arithmetic, cast_to, entered_s)
    out_TH = attachment.engine.forward(work)
    place.calls += 1
    return without_gradient(out_TH, [hidden_TH, weights_TK, *module.parameters()]) if learning else out_TH


def refuse_training(module: Any) -> None:
    """Raise InputError for a module that would learn from what is computed here."""
    if module.training and is_grad_enabled():
        raise InputError("hetsched runs inference only; call model.eval() or detach() before training")


def _looked(place: Place, module: Any) -> bool:
    """What is seldom necessary before a call: weights taken over, or looked at outside of the model's own pass.

    False where the model was detached and somebody's wrapper around the door has kept it.
    """
    if place_of(module) is not place:
        return False
    if place.arithmetic is None:
        place.attachment.take(module, place)
    if not place.attachment.in_step:
        place.attachment.look()
    return True


def _compiled(place: Place, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
    """In a graph that torch.compile makes, one operator; where gradients are asked for or no graph is, as without."""
    if is_dynamo_compiling() and not is_grad_enabled():
        cast_to = cast_dtype(hidden_TH.device)
        operator: torch.Tensor = torch.ops.hetsched.experts(hidden_TH, ids_TK, weights_TK, place.number, cast_to)
        return operator
    return _uncompiled(place, hidden_TH, ids_TK, weights_TK)


_uncompiled = not_compiled(enter)


@not_compiled
def _operator(
    hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor, number: int, cast_to: torch.dtype | None
) -> torch.Tensor:
    """The operator at run time; its result lies as `_operator_shape` says."""
    place = _OPENED[number]() if number in _OPENED else None
    if place is None:
        raise InputError("a graph compiled while the model was attached ran after detach(); compile the model again")
    return enter(place, hidden_TH, ids_TK, weights_TK, cast_to).contiguous()


def _operator_shape(
    hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor, number: int, cast_to: torch.dtype | None
) -> torch.Tensor:
    return hidden_TH.new_empty(hidden_TH.shape)


_LIBRARY.impl("experts", _operator, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("hetsched::experts", _operator_shape, lib=_LIBRARY)
