"""The slot pool: chunks that come and go, whose memory is the device's own, and nothing that leaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetsched.accelerators.base import OutOfDeviceMemory
from hetsched.accelerators.host_memory import HostMemory
from hetsched.engine import slots as pool_of
from hetsched.engine.slots import SlotPool
from hetsched.errors import InputError
from hetsched.residency import Residency
from hetsched.types import ExpertId

LAYERS, EXPERTS, SLOT = 3, 40, 16


class Memory(HostMemory):
    """Host memory with a name, and how much of it is held."""

    name = "memory"

    @property
    def held_bytes(self) -> int:
        return sum(self._allocated.values())


class Pool:
    """A pool and its residency, every expert's slot filled with its own number."""

    def __init__(self, slots: int, room: int = 10**6, fewer: bool = False) -> None:
        self.memory: Any = Memory(room)
        self.residency = Residency(LAYERS, EXPERTS, slots)
        self.pool = SlotPool(self.memory, self.residency, SLOT, fewer)

    def fill(self) -> None:
        for number, expert in enumerate(self.residency.residents()):
            self.pool.buffer(expert, SLOT)[:] = number

    def resize(self, slots: int, fewer: bool = False) -> int:
        """As an engine does it, with the last residents leaving; the slots that there are then."""
        made = self.pool.planned(slots, fewer)
        for expert in self.residency.residents()[made.slots :]:
            self.residency._state_LE[expert] = 0
        self.residency.recount()
        moves = self.residency.moves(made.slots, made.kept)
        self.pool.move(made, moves)
        self.residency.resize(made.slots, moves)
        self.pool.take(made)
        return made.slots


@given(st.integers(1, 120), st.lists(st.tuples(st.integers(0, 120), st.booleans()), max_size=6), st.integers(1, 7))
def test_weights_stay_with_their_experts(first: int, sizes: list[tuple[int, bool]], chunk: int) -> None:
    made = Pool(first)
    made.pool._chunk_slots = chunk
    made.residency.fill(ExpertId(l, e) for l in range(LAYERS) for e in range(EXPERTS))
    made.fill()
    for slots, filling in sizes:
        assert made.resize(slots) == slots
        made.residency.check()
        assert made.memory.held_bytes == made.pool.num_bytes == slots * SLOT
        for number, expert in enumerate(made.residency.residents()):
            assert (made.pool.buffer(expert, SLOT) == number).all()
        if filling:
            made.residency.fill(ExpertId(l, e) for l in range(LAYERS) for e in range(EXPERTS))
            made.fill()
    made.pool.close()
    assert made.memory.held_bytes == 0


def test_what_is_given_back_is_whole_chunks_from_the_end() -> None:
    made = Pool(11)  # chunks of two, since there are 120 experts
    assert made.pool.chunk_bytes == 2 * SLOT
    assert made.pool.whole(0) == 11
    assert made.pool.whole(1) == 10
    assert made.pool.whole(SLOT + 1) == 8
    assert made.pool.whole(10**9) == 0


def test_large_slots_come_in_chunks_of_some_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_of, "CHUNK_BYTES", SLOT)
    assert Pool(11).pool.chunk_bytes == SLOT


def test_a_named_size_is_had_whole_or_refused_and_nothing_leaks() -> None:
    with pytest.raises(InputError, match="memory has no room for 11 experts of 16 bytes") as caught:
        Pool(11, room=10 * SLOT)
    assert "gpu_memory" in str(caught.value)
    assert "\n" not in str(caught.value)
    made = Pool(6, room=10 * SLOT)
    with pytest.raises(InputError, match="no room for 12"):
        made.resize(12)
    assert made.memory.held_bytes == 6 * SLOT
    assert made.resize(12, fewer=True) == 10
    assert made.memory.held_bytes == 10 * SLOT


def test_with_fewer_as_many_as_there_is_room_for() -> None:
    made = Pool(11, room=7 * SLOT, fewer=True)  # the fourth chunk has no room
    assert made.pool.num_slots == 6
    assert Pool(11, room=0, fewer=True).pool.num_slots == 0


class Interrupted(Memory):
    """Ctrl-C in the middle of the fourth allocation."""

    def allocate(self, num_bytes: int) -> torch.Tensor:
        if self.held_bytes >= 6 * SLOT:
            raise KeyboardInterrupt
        return super().allocate(num_bytes)


def test_an_interrupt_leaves_nothing_allocated() -> None:
    memory: Any = Interrupted(10**6)
    with pytest.raises(KeyboardInterrupt):
        SlotPool(memory, Residency(LAYERS, EXPERTS, 11), SLOT)
    assert memory.held_bytes == 0


def test_the_devices_own_error_is_the_cause() -> None:
    with pytest.raises(InputError) as caught:
        Pool(11, room=0)
    assert isinstance(caught.value.__cause__, OutOfDeviceMemory)
