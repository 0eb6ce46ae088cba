"""What attach() puts on a module and takes off again: its place and its hooks.

Everything hangs on the module itself, so that a forgotten model and all that belongs to it go together.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from ..engine.expert_ffn import Arithmetic
from ..packed import parameter_names

if TYPE_CHECKING:
    from .attachment import Attachment

_PLACE = "_hetsched_place"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks")


@dataclass
class Place:
    """Where an expert module belongs; `first` of those that share their layer's parameters.

    `module`: a weak reference. `arithmetic`: None until its weights are there, and after detach(). `number`: no other
    place's in this process, now or later.
    """

    attachment: Attachment
    module: Callable[[], Any]
    layer: int
    first: bool = True
    arithmetic: Arithmetic | None = None
    calls: int = 0
    number: int = field(default_factory=count().__next__)


def place_of(module: Any) -> Place | None:
    """The place of an adopted module; None for any other."""
    return module.__dict__.get(_PLACE)  # type: ignore[no-any-return]


def attachment_of(model: torch.nn.Module) -> Attachment | None:
    """The handle of an attached model, also of one that attached itself (experts_implementation="hetsched")."""
    for module in model.modules():
        if (place := place_of(module)) is not None:
            return place.attachment
    return None


def put(module: Any, place: Place) -> None:
    """Adopt a module: its place, and a hook that watches over its saving."""
    module.__dict__[_PLACE] = place
    module.register_state_dict_post_hook(_with_tensors_of_their_own)


def take_off(module: Any, attachment: Attachment | None = None) -> None:
    """Remove our hooks from a module, and those that are methods of `attachment`. May be called twice.

    By looking for them: an interrupt may have come between putting a hook there and keeping its handle.
    """
    ours = [
        (holder, number)
        for holder in (module.__dict__[name] for name in _HOOKS)
        for number, hook in holder.items()
        if hook is _with_tensors_of_their_own
        or (attachment is not None and getattr(hook, "__self__", None) is attachment)
    ]
    for holder, number in ours:
        for each in (module._forward_pre_hooks_with_kwargs, holder):  # last where it is looked for
            each.pop(number, None)


def forget(module: Any) -> None:
    """The module has no place any more."""
    if (place := module.__dict__.pop(_PLACE, None)) is not None:
        place.arithmetic = None


class SavedCopies:
    """The tensors that state_dict() was given for adopted parameters last: what is tied stays tied in it."""

    def __init__(self) -> None:
        self._given: MutableMapping[tuple[int, int, str], torch.Tensor] = weakref.WeakValueDictionary()

    def copy(self, state: Any, place: Place, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """A contiguous copy of a parameter; for modules that share it, the first one's."""
        key = id(state), place.layer, name
        copied = None if place.first else self._given.get(key)
        if copied is None or not any(copied is held for held in state.values()):
            copied = parameter.detach().clone(memory_format=torch.contiguous_format)
            self._given[key] = copied
        return copied


def _with_tensors_of_their_own(module: Any, state: Any, prefix: str, _: Any) -> None:
    """A state_dict hook: adopted parameters are strided views of shared memory, which safetensors cannot save."""
    place = place_of(module)
    if place is None:
        return
    for name in parameter_names(module):
        parameter = module._parameters[name]
        if state.get(prefix + name) is not parameter:  # else the parameters themselves were asked for (keep_vars)
            state[prefix + name] = place.attachment.saved.copy(state, place, name, parameter)
