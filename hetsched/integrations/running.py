"""The model in whose forward pass a module runs, read from the call stack."""

from __future__ import annotations

import sys
from types import FrameType

import torch
from transformers import PreTrainedModel


def running_model(module: torch.nn.Module) -> torch.nn.Module:
    """The outermost transformers model in whose forward pass `module` is running; else the outermost module.

    Read from the call stack of this thread, in which every module's forward pass has a frame of its own.
    """
    outermost: torch.nn.Module = module
    model: torch.nn.Module | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self") if _is_a_modules(frame) else None
        frame = frame.f_back
        if owner is outermost or not isinstance(owner, torch.nn.Module):
            continue
        if any(child is module for child in owner.modules()):
            outermost = owner
            model = owner if isinstance(owner, PreTrainedModel) else model
    return outermost if model is None else model


def _is_a_modules(frame: FrameType) -> bool:
    """Whether a frame may be a module's: a method of torch or transformers, or a forward.

    No other is looked into, for until Python 3.13 a look leaves a copy of all that frame's variables in it: a caller
    who deletes the model would keep it all the same.
    """
    code = frame.f_code
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    ours = package.startswith(("torch", "transformers")) or code.co_name == "forward"
    return ours and code.co_varnames[:1] == ("self",)
