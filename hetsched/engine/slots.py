"""SlotPool: device memory for experts, cut into slots of one size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..accelerators.base import Accelerator, OutOfDeviceMemory
from ..errors import InputError
from ..residency import Residency, ResidencyError
from ..types import ExpertId
from .host_store import Layout


class SlotPool:
    """Which slot holds which expert; one allocation for all of them. The scheduler decides, this only keeps place.

    Raises InputError with the numbers where the device has no room: fewer slots than were asked for would quietly be
    another machine than the one that the scheduler plans for.
    """

    def __init__(self, accelerator: Accelerator, num_slots: int, slot_bytes: int) -> None:
        self._accelerator = accelerator
        self._num_slots = num_slots
        self._slot_bytes = slot_bytes
        try:
            self._arena = accelerator.allocate(num_slots * slot_bytes)
        except OutOfDeviceMemory as error:
            raise InputError(
                f"{accelerator.name} has no room for {num_slots} experts of {slot_bytes} bytes: {error}; "
                "give a smaller gpu_memory"
            ) from error
        self._free = list(range(num_slots - 1, -1, -1))
        self._slot_of: dict[ExpertId, int] = {}
        self._views: dict[tuple[int, int], tuple[Layout, Mapping[str, torch.Tensor]]] = {}  # by slot and layout

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory held."""
        return self._arena.numel()

    def place(self, expert: ExpertId, victim: ExpertId | None = None) -> None:
        """Give an expert the victim's slot, or a free one."""
        slot = self._free.pop() if victim is None else self._slot_of.pop(victim)
        self._slot_of[expert] = slot

    def vacate(self, expert: ExpertId) -> None:
        """Free an expert's slot."""
        self._free.append(self._slot_of.pop(expert))

    def check(self, residency: Residency) -> None:
        """Verify that slots and residency agree; raises ResidencyError with what does not."""
        residency.check()
        held = {ExpertId(int(l), int(e)) for l, e in zip(*residency.state_LE.nonzero(), strict=True)}
        if held != set(self._slot_of):
            raise ResidencyError(f"{sorted(held ^ set(self._slot_of))} have a slot or a state, not both")
        if sorted([*self._free, *self._slot_of.values()]) != list(range(self._num_slots)):
            raise ResidencyError(f"slots {sorted(self._slot_of.values())} are taken, {sorted(self._free)} free")

    def reconcile(self, residents: Iterable[ExpertId]) -> None:
        """After an aborted plan: keep the residents' slots, free every other."""
        kept = set(residents)
        self._slot_of = {expert: slot for expert, slot in self._slot_of.items() if expert in kept}
        used = set(self._slot_of.values())
        self._free = [slot for slot in reversed(range(self._num_slots)) if slot not in used]

    def buffer(self, expert: ExpertId, num_bytes: int) -> torch.Tensor:
        """The bytes of an expert's slot, uint8 [num_bytes]."""
        begin = self._slot_of[expert] * self._slot_bytes
        return self._arena[begin : begin + num_bytes]

    def weights(self, expert: ExpertId, layout: Layout) -> Mapping[str, torch.Tensor]:
        """An expert's parameters in device memory; valid until its slot is given away."""
        slot = self._slot_of[expert]
        held = self._views.get((slot, id(layout)))
        if held is None:
            held = self._views[slot, id(layout)] = layout, layout.views(self.buffer(expert, layout.row_bytes))
        return held[1]

    def close(self) -> None:
        """Release the memory."""
        self._views.clear()
        self._accelerator.release(self._arena)
