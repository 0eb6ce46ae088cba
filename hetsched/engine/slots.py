"""SlotPool: device memory for experts, cut into slots of one size. Who has which, the residency says."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from ..accelerators.base import Accelerator, OutOfDeviceMemory
from ..errors import InputError
from ..packed import Layout
from ..residency import Move, Residency
from ..types import ExpertId

CHUNK_BYTES = 128 << 20  # torch rounds what it asks a driver for up to 2 MiB
CHUNKS = 64  # of all experts, at least: what is given back is given back by the chunk
SHORT = (OutOfDeviceMemory, torch.OutOfMemoryError)


class Chunk(NamedTuple):
    """An allocation that holds `slots` slots, the first of which is number `first`."""

    first: int
    slots: int
    memory: torch.Tensor


class Shape(NamedTuple):
    """What a pool is to be: `chunks` in order, of which the first `old` are there already; slots below `kept` stay."""

    chunks: tuple[Chunk, ...]
    old: int

    @property
    def kept(self) -> int:
        """Slots that are the same memory as before."""
        return _end(self.chunks[: self.old])

    @property
    def slots(self) -> int:
        """Slots in all."""
        return _end(self.chunks)


class SlotPool:
    """Chunks of slots, so that parts can be given back.

    `fewer`: where the device has no room for the residency's slots, as many as it has. Else that raises InputError with
    the numbers: fewer slots than were asked for would quietly be another machine than the one that is planned for.
    """

    def __init__(self, accelerator: Accelerator, residency: Residency, slot_bytes: int, fewer: bool = False) -> None:
        self._accelerator = accelerator
        self._slot_LE = residency.slot_LE
        self._slot_bytes = slot_bytes
        self._chunk_slots = max(1, min(CHUNK_BYTES // slot_bytes, -(-residency.slot_LE.size // CHUNKS)))
        self._chunks: tuple[Chunk, ...] = ()
        self._buffers: dict[tuple[int, int], torch.Tensor] = {}  # by slot and size
        self._views: dict[tuple[int, int], tuple[Layout, Mapping[str, torch.Tensor]]] = {}  # by slot and layout
        self.take(self.planned(residency.num_slots, fewer))

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory held."""
        return self.num_slots * self._slot_bytes

    @property
    def num_slots(self) -> int:
        """Slots that there are."""
        return _end(self._chunks)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a whole chunk."""
        return self._chunk_slots * self._slot_bytes

    def buffer(self, expert: ExpertId, num_bytes: int) -> torch.Tensor:
        """The bytes of an expert's slot, uint8 [num_bytes]. Raises KeyError for one that has none."""
        key = slot, _ = self._slot(expert), num_bytes
        held = self._buffers.get(key)
        if held is None:
            held = self._buffers[key] = self._memory(self._chunks, slot)[:num_bytes]
        return held

    def weights(self, expert: ExpertId, layout: Layout) -> Mapping[str, torch.Tensor]:
        """An expert's parameters in device memory; valid until its slot is given away."""
        key = self._slot(expert), id(layout)
        held = self._views.get(key)
        if held is None:
            held = self._views[key] = layout, layout.views(self.buffer(expert, layout.row_bytes))
        return held[1]

    def whole(self, num_bytes: int) -> int:
        """Slots that are left when whole chunks of at least `num_bytes` in all are given back, the last first."""
        chunks = list(self._chunks)
        while chunks and num_bytes > 0:
            num_bytes -= chunks.pop().slots * self._slot_bytes
        return _end(chunks)

    def planned(self, num_slots: int, fewer: bool = False) -> Shape:
        """A pool of so many slots, its new chunks allocated; take() or drop() comes next.

        Raises InputError where there is no room, but with `fewer`: what there is room for.
        """
        old = 0
        while old < len(self._chunks) and _end(self._chunks[: old + 1]) <= num_slots:
            old += 1
        made = Shape(self._chunks[:old], old)
        try:
            while made.slots < num_slots:
                slots = min(self._chunk_slots, num_slots - made.slots)
                memory = self._accelerator.allocate(slots * self._slot_bytes)
                made = made._replace(chunks=(*made.chunks, Chunk(made.slots, slots, memory)))
        except SHORT as error:
            if not fewer:
                self.drop(made)
                raise InputError(
                    f"{self._accelerator.name} has no room for {num_slots} experts of {self._slot_bytes} bytes: "
                    f"{error}; give a smaller gpu_memory"
                ) from error
        except BaseException:
            self.drop(made)
            raise
        return made

    def drop(self, made: Shape) -> None:
        """It is not to be: release what was allocated for it."""
        for chunk in made.chunks[made.old :]:
            self._accelerator.release(chunk.memory)

    def move(self, made: Shape, moves: Sequence[Move]) -> None:
        """Copy slots of this pool into slots of what it is to be, which nobody has."""
        for _, old, new in moves:
            self._accelerator.copy_now(self._memory(self._chunks, old), self._memory(made.chunks, new))

    def take(self, made: Shape) -> None:
        """What was planned is so from now on; chunks that it has not are released."""
        gone, self._chunks = self._chunks[made.old :], made.chunks
        for held in (self._buffers, self._views):
            for key in [key for key in held if key[0] >= made.kept]:
                del held[key]
        for chunk in gone:
            self._accelerator.release(chunk.memory)

    def close(self) -> None:
        """Release the memory."""
        self.take(Shape((), 0))

    def _memory(self, chunks: Sequence[Chunk], slot: int) -> torch.Tensor:
        chunk = chunks[bisect_right(chunks, slot, key=lambda chunk: chunk.first) - 1]
        begin = (slot - chunk.first) * self._slot_bytes
        return chunk.memory[begin : begin + self._slot_bytes]

    def _slot(self, expert: ExpertId) -> int:
        slot = int(self._slot_LE[expert])
        if slot < 0:
            raise KeyError(expert)
        return slot


def _end(chunks: Sequence[Chunk]) -> int:
    return chunks[-1].first + chunks[-1].slots if chunks else 0
