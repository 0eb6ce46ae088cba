"""SecondTry: a forward pass whose dense part finds no memory on the device is made again, with slots given back first.

The cache is put back to what it was before the pass, which caches that grow by concatenation can; where it cannot be
(a static cache, a window or a linear layer's state that has moved on), the error is the caller's, as without this.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from ..engine.slots import SHORT
from ..faults import story
from .phases import is_filled

GROWING = ("DynamicLayer", "DynamicSlidingWindowLayer")  # transformers' cache layers that take tokens back


class SecondTry:
    """What stands in place of one model's forward; `make_room` gives bytes back and says how many, 0 for none left."""

    def __init__(self, make_room: Callable[[int, str], int]) -> None:
        self._make_room = make_room
        self._forward: Any = None
        self._model: Callable[[], Any] = lambda: None

    def put_on(self, model: torch.nn.Module) -> None:
        """From now on. A forward that somebody else has put on the model stays alone."""
        if "forward" in model.__dict__:
            return
        self._model = weakref.ref(model)
        self._forward = update_wrapper(partial(_forward, self._model, self._make_room), type(model).forward)
        model.__dict__["forward"] = self._forward

    def take_off(self) -> None:
        """The model's own forward again. May be called twice."""
        model = self._model()
        if model is not None and self._forward is not None and model.__dict__.get("forward") is self._forward:
            del model.__dict__["forward"]


def _forward(model_of: Callable[[], Any], make_room: Callable[[int, str], int], /, *args: Any, **kwargs: Any) -> Any:
    model, num_bytes = model_of(), 1
    if is_dynamo_compiling():
        return type(model).forward(model, *args, **kwargs)
    cache = kwargs.get("past_key_values")
    before = _lengths(cache)
    while True:
        try:
            return type(model).forward(model, *args, **kwargs)
        except SHORT as error:
            short = error.with_traceback(None)  # its frames hold what the pass has allocated
        if not _rewound(cache, before):
            raise short
        num_bytes = 2 * make_room(num_bytes, story(short))
        if not num_bytes:
            raise short


def _lengths(cache: Any) -> list[int] | None:
    """Tokens in each layer of a cache; None where it cannot be put back to these."""
    if cache is None or not is_filled(cache):
        return []
    layers = getattr(cache, "layers", None)
    if layers is None or any(type(layer).__name__ not in GROWING for layer in layers):
        return None
    return [int(layer.get_seq_length()) for layer in layers]


def _rewound(cache: Any, before: list[int] | None) -> bool:
    """Whether the cache holds again what it held before."""
    if cache is None or before == []:
        if cache is not None:
            cache.reset()
        return True
    if before is None:
        return False
    for layer, length in zip(cache.layers, before, strict=False):
        grown = int(layer.get_seq_length()) - length
        try:
            if grown:
                layer.crop(-grown)
        except RuntimeError:  # its window has moved on
            return False
    return True
