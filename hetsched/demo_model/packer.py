"""Matrices in a format, or in the next that can store them, and a model's parameters while a bar moves.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hetsched.demo_model.progress import Tick
from hetsched.errors import InputError
from hetsched.formats import Format, format_of

if TYPE_CHECKING:
    import torch


@dataclass
class Packer:
    """Packs matrices, and counts the bytes that each format came to."""

    wanted: str
    others: tuple[str, ...]
    bytes_by_format: dict[str, int] = field(default_factory=dict)

    def packed(self, weights_RC: torch.Tensor) -> tuple[Format, dict[str, torch.Tensor]]:
        """A matrix in the wanted format, or in the first of the others that can store it."""
        shape = (len(weights_RC), weights_RC.shape[1])
        for name in (self.wanted, *self.others):
            laid = format_of(name)
            try:
                num_bytes = laid.num_bytes(shape)
            except InputError:
                continue
            self.bytes_by_format[laid.name] = self.bytes_by_format.get(laid.name, 0) + num_bytes
            return laid, laid.pack(weights_RC)
        raise InputError(f"a matrix {list(shape)} cannot be stored as {self.wanted}")


def tensors_of(model: Any, tick: Tick) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters by name, tied ones once, while the bar moves."""
    held = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    total, done = sum(value.numel() for value in held.values()), 0
    for name, value in held.items():
        yield name, value
        done += value.numel()
        tick(done / total)
