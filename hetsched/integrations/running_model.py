"""Which model an expert module belongs to, found while it runs: modules know their children, not their parents."""

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
        owner = frame.f_locals.get("self")
        frame = frame.f_back
        if owner is outermost or not isinstance(owner, torch.nn.Module):
            continue
        if any(child is module for child in owner.modules()):
            outermost = owner
            model = owner if isinstance(owner, PreTrainedModel) else model
    return outermost if model is None else model
