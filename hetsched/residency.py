"""Residency: which experts are on the GPU. The one mutable object of a scheduler; it changes only through apply().

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np

from .types import Evict, ExpertId, Fetch, IntArray


class State(IntEnum):
    """Life of one expert's copy on the GPU."""

    ABSENT = 0
    COPYING = 1
    RESIDENT = 2


# Plain numbers for hot paths: on Python 3.11 reaching a member of an enum costs as much as comparing an array.
ABSENT, COPYING, RESIDENT = (int(state) for state in State)


class Arrive(NamedTuple):
    """A copy has wholly arrived."""

    expert: ExpertId


class Drop(NamedTuple):
    """A copy failed or was cancelled: the expert is not there, its slot is free."""

    expert: ExpertId


Change: TypeAlias = Fetch | Evict | Arrive | Drop


class ResidencyError(RuntimeError):
    """A change that the state does not allow: a fault of a policy or an executor, never of the user."""


class Residency:
    """State of every expert, and the slots they take.

    All slots are of one size, that of the largest expert. `state_LE` may be read by anyone and written by none.
    The conserved quantity: copying + resident + free == num_slots.
    """

    def __init__(self, num_layers: int, num_experts: int, num_slots: int) -> None:
        self.num_slots = num_slots
        self._state_LE = np.zeros((num_layers, num_experts), np.uint8)
        self.state_LE = self._state_LE.view()
        self.state_LE.setflags(write=False)
        self.free_slots = num_slots
        self.num_copying = 0

    def state(self, expert: ExpertId) -> State:
        """State of one expert."""
        return State(self._state_LE[expert])

    def is_copying(self, expert: ExpertId) -> bool:
        """Whether a copy of this expert is under way."""
        return bool(self._state_LE[expert] == COPYING)

    def states(self, layer: int) -> list[int]:
        """State numbers of a layer's experts; a list, since a few look-ups in one are cheaper than in an array."""
        row: list[int] = self._state_LE[layer].tolist()
        return row

    def residents(self) -> list[ExpertId]:
        """Every expert that is wholly there, in order."""
        return [ExpertId(int(l), int(e)) for l, e in np.argwhere(self._state_LE >= RESIDENT)]

    def copying(self) -> list[ExpertId]:
        """Every expert under way, in order."""
        return [ExpertId(int(l), int(e)) for l, e in np.argwhere(self._state_LE == COPYING)]

    def evictable(self, layer: int, active_N: IntArray) -> IntArray:
        """Flat indices (layer * E + expert) of residents that may be victims while `layer` runs `active_N`."""
        idle_LE = self._state_LE == RESIDENT
        idle_LE[layer, active_N] = False
        victims: IntArray = idle_LE.reshape(-1).nonzero()[0]
        return victims

    def apply(self, change: Change) -> None:
        """Make one change, or raise ResidencyError and leave everything as it was."""
        state, expert = self._state_LE, change.expert
        match change:
            case Fetch(_, victim):
                self._require(expert, ABSENT, "fetched")
                if victim is None:
                    if self.free_slots < 1:
                        raise ResidencyError(f"{expert} was fetched into a free slot, and there is none")
                    self.free_slots -= 1
                else:
                    self._require(victim, RESIDENT, "evicted")
                    state[victim] = ABSENT
                state[expert] = COPYING
                self.num_copying += 1
            case Evict():
                self._require(expert, RESIDENT, "evicted")
                state[expert] = ABSENT
                self.free_slots += 1
            case Arrive():
                self._require(expert, COPYING, "reported as arrived")
                state[expert] = RESIDENT
                self.num_copying -= 1
            case Drop():
                self._require(expert, COPYING, "dropped")
                state[expert] = ABSENT
                self.num_copying -= 1
                self.free_slots += 1

    def fill(self, experts: Iterable[ExpertId]) -> list[ExpertId]:
        """Make experts resident before the first step, as far as slots go; what was taken, in order."""
        taken = []
        for expert in experts:
            if self.free_slots < 1:
                break
            if self._state_LE[expert] == ABSENT:
                self._state_LE[expert] = RESIDENT
                self.free_slots -= 1
                taken.append(expert)
        return taken

    def recount(self) -> None:
        """After a change that was interrupted half-way (Ctrl-C): let the counts follow the states again."""
        self.num_copying = int(np.count_nonzero(self._state_LE == COPYING))
        self.free_slots = self.num_slots - int(np.count_nonzero(self._state_LE))

    def check(self) -> None:
        """Verify the invariants; raises ResidencyError with the numbers."""
        used = int(np.count_nonzero(self._state_LE))
        if used + self.free_slots != self.num_slots or self.free_slots < 0:
            raise ResidencyError(f"{used} slots used + {self.free_slots} free != {self.num_slots} slots")
        if np.count_nonzero(self._state_LE == COPYING) != self.num_copying:
            raise ResidencyError(f"{self.num_copying} copies are said to be under way, and there are others")
        if self._state_LE.max(initial=0) > RESIDENT:
            raise ResidencyError("an expert is in no known state")

    def _require(self, expert: ExpertId, state: int, what: str) -> None:
        found = int(self._state_LE[expert])
        if found != state:
            names = State(found).name, State(state).name
            raise ResidencyError("layer {} expert {} was {} while {}, not {}".format(*expert, what, *names))
