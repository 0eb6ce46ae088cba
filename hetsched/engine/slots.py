"""SlotPool: device memory for experts, cut into slots of one size. Who has which, the residency says."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..accelerators.base import Accelerator, OutOfDeviceMemory
from ..errors import InputError
from ..residency import Residency
from ..types import ExpertId
from .host_store import Layout


class SlotPool:
    """One allocation for all slots of a residency.

    Raises InputError with the numbers where the device has no room: fewer slots than were asked for would quietly be
    another machine than the one that the scheduler plans for.
    """

    def __init__(self, accelerator: Accelerator, residency: Residency, slot_bytes: int) -> None:
        self._accelerator = accelerator
        self._slot_LE = residency.slot_LE
        self._slot_bytes = slot_bytes
        try:
            self._arena = accelerator.allocate(residency.num_slots * slot_bytes)
        except OutOfDeviceMemory as error:
            raise InputError(
                f"{accelerator.name} has no room for {residency.num_slots} experts of {slot_bytes} bytes: {error}; "
                "give a smaller gpu_memory"
            ) from error
        self._buffers: dict[tuple[int, int], torch.Tensor] = {}  # by slot and size
        self._views: dict[tuple[int, int], tuple[Layout, Mapping[str, torch.Tensor]]] = {}  # by slot and layout

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory held."""
        return self._arena.numel()

    def buffer(self, expert: ExpertId, num_bytes: int) -> torch.Tensor:
        """The bytes of an expert's slot, uint8 [num_bytes]. Raises KeyError for one that has none."""
        key = slot, _ = self._slot(expert), num_bytes
        held = self._buffers.get(key)
        if held is None:
            begin = slot * self._slot_bytes
            held = self._buffers[key] = self._arena[begin : begin + num_bytes]
        return held

    def weights(self, expert: ExpertId, layout: Layout) -> Mapping[str, torch.Tensor]:
        """An expert's parameters in device memory; valid until its slot is given away."""
        key = self._slot(expert), id(layout)
        held = self._views.get(key)
        if held is None:
            held = self._views[key] = layout, layout.views(self.buffer(expert, layout.row_bytes))
        return held[1]

    def _slot(self, expert: ExpertId) -> int:
        slot = int(self._slot_LE[expert])
        if slot < 0:
            raise KeyError(expert)
        return slot

    def close(self) -> None:
        """Release the memory."""
        self._views.clear()
        self._buffers.clear()
        self._accelerator.release(self._arena)
