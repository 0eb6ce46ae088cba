"""The dense part of a model (all but its routed experts) on the device, while its experts stay in host memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..engine.slots import SHORT
from ..packed import PackedWeight
from .expert_modules import is_expert_module


class MovedTensor(NamedTuple):
    """A tensor that was `before` in a module's `held`, and what took its place on the device."""

    held: dict[str, Any]
    name: str
    before: torch.Tensor
    there: torch.Tensor
    address: int
    version: int


class DensePart:
    """What was moved to a device, and the very objects that were there before.

    The host's copy is kept: restore() puts the same parameters and buffers back, at the price of their host memory.
    """

    def __init__(self) -> None:
        self._moved: list[MovedTensor] = []

    def bring(
        self, model: torch.nn.Module, device: torch.device, make_room: Callable[[int], int] | None = None
    ) -> None:
        """move(), again and again where memory is short and `make_room` gives more; nothing for the CPU."""
        moved = device.type == "cpu"
        while not moved:
            moved = self._moves(model, device, make_room)

    def _moves(self, model: torch.nn.Module, device: torch.device, make_room: Callable[[int], int] | None) -> bool:
        try:
            self.move(model, device)
        except SHORT:
            self.restore()
            if make_room is None or not make_room(1):
                raise
            return False
        return True

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
                    there = moved[id(tensor)]
                    self._moved.append(MovedTensor(held, name, tensor, there, there.data_ptr(), there._version))
                    held[name] = there  # type: ignore[assignment]

    def unpack(self, model: torch.nn.Module) -> None:
        """Let packed weights that nothing of ours reads be numbers until restore(), or each call would unpack them."""
        for module in model.modules():
            weight = module._parameters.get("weight")
            if isinstance(weight, PackedWeight) and "forward" not in module.__dict__:
                there = torch.nn.Parameter(weight.unpacked(), requires_grad=False)
                address = there.data_ptr()
                self._moved.append(MovedTensor(module._parameters, "weight", weight, there, address, there._version))
                module._parameters["weight"] = there

    def restore(self) -> None:
        """Put everything back, with what was written to it meanwhile. May be called twice."""
        for moved in self._moved:
            now = moved.held.get(moved.name)
            if now is None or now is moved.before:
                continue
            written = now is not moved.there or now.data_ptr() != moved.address or now._version != moved.version
            if written and isinstance(moved.before, PackedWeight):
                continue  # other numbers now, which cannot be packed
            if written:
                moved.before.data = now.detach().to(moved.before.device)
            moved.held[moved.name] = moved.before
        self._moved.clear()


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    there = tensor.detach().to(device)
    return torch.nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else there
