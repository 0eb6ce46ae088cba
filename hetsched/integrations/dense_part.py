"""The dense part of a model (all but its routed experts) on the device, while its experts stay in host memory."""

from __future__ import annotations

from typing import Any

import torch

from .expert_modules import is_expert_module


class DensePart:
    """What was moved to a device, and the very objects that were there before.

    The host's copy is kept: restore() puts the same parameters and buffers back, at the price of their host memory.
    """

    def __init__(self) -> None:
        self._before: list[tuple[dict[str, Any], str, torch.Tensor]] = []

    def move(self, model: torch.nn.Module, device: torch.device) -> None:
        """Move every parameter and buffer outside expert modules; what is tied stays tied, what is there stays."""
        experts = {id(part) for module in model.modules() if is_expert_module(module) for part in module.modules()}
        moved: dict[int, torch.Tensor] = {}
        for module in (module for module in model.modules() if id(module) not in experts):
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is None or tensor.is_meta or tensor.device == device:
                        continue
                    if id(tensor) not in moved:
                        moved[id(tensor)] = _on(tensor, device)
                    self._before.append((held, name, tensor))
                    held[name] = moved[id(tensor)]  # type: ignore[assignment]

    def restore(self) -> None:
        """Put everything back. May be called twice."""
        while self._before:
            held, name, tensor = self._before.pop()
            held[name] = tensor


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    there = tensor.detach().to(device)
    return torch.nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else there
