"""Accelerators whose activations stay in host memory: nothing has to be brought, sent or pinned."""

from __future__ import annotations

from typing import Any, ClassVar

import torch


class Here:
    """An Event of something that is at hand already."""

    done = True
    failed = False
    busy_s = 0.0
    stall_s = 0.0

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        """The value."""
        return self._value


class HostMemory:
    """What the protocol asks of a device about memory across the link, where there is none to cross."""

    device: ClassVar[torch.device] = torch.device("cpu")
    grouped_experts: ClassVar[None] = None
    notes: ClassVar[list[str]] = []

    def pin(self, memory: torch.Tensor) -> bool:
        """Nothing to do: copies are as fast as they get."""
        return True

    def bring(self, tensor: torch.Tensor) -> Here:
        """The tensor itself."""
        return Here(tensor)

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor
