"""Residency: which experts are on the GPU. The one mutable object of a scheduler, of which others see a Reading.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np

from .board import ABSENT as ABSENT
from .board import COPYING as COPYING
from .board import FREE, FREE_SLOT, NO_EXPERT, SLOTS, UNDER_WAY, Board, new_board, open_board
from .board import RESIDENT as RESIDENT
from .types import Evict, ExpertId, Fetch, IntArray, read_only


class State(IntEnum):
    """Life of one expert's copy on the GPU."""

    ABSENT = ABSENT
    COPYING = COPYING
    RESIDENT = RESIDENT
    NO_EXPERT = NO_EXPERT


class Arrive(NamedTuple):
    """A copy has wholly arrived."""

    expert: ExpertId


class Drop(NamedTuple):
    """A copy failed or was cancelled: the expert is not there, its slot is free."""

    expert: ExpertId


Change: TypeAlias = Fetch | Evict | Arrive | Drop


class Move(NamedTuple):
    """A resident changes its slot."""

    expert: ExpertId
    old: int
    new: int


class ResidencyError(RuntimeError):
    """A change that the state does not allow: a fault of a policy or an executor, never of the user."""


class Reading:
    """State of every expert, and the slots they take, as sections of a board: to look at, with nothing to change.

    `state_LE` and `slot_LE` (-1: no slot) are read-only, and always up to date: numpy raises ValueError where somebody
    tries to write. This is what policies are shown.
    """

    def __init__(self, num_layers: int, num_experts: int, board: Board) -> None:
        self._board = board
        self.state_LE = read_only(board.state_F.reshape(num_layers, num_experts))
        self.slot_LE = read_only(board.slot_F.reshape(num_layers, num_experts))

    @property
    def num_slots(self) -> int:
        """Slots that there are now."""
        return int(self._board.at[SLOTS])

    @property
    def free_slots(self) -> int:
        """Slots that nobody has."""
        return int(self._board.at[FREE])

    @property
    def num_copying(self) -> int:
        """Experts under way."""
        return int(self._board.at[UNDER_WAY])

    def state(self, expert: ExpertId) -> State:
        """State of one expert."""
        return State(self.state_LE[expert])

    def slot(self, expert: ExpertId) -> int:
        """Slot of one expert, -1 for none."""
        return int(self.slot_LE[expert])

    def is_copying(self, expert: ExpertId) -> bool:
        """Whether a copy of this expert is under way."""
        return bool(self.state_LE[expert] == COPYING)

    def states(self, layer: int) -> list[int]:
        """State numbers of a layer's experts; a list, since a few look-ups in one are cheaper than in an array."""
        row: list[int] = self.state_LE[layer].tolist()
        return row

    def residents(self) -> list[ExpertId]:
        """Every expert that is wholly there, in order."""
        return [ExpertId(int(l), int(e)) for l, e in np.argwhere(self.state_LE == RESIDENT)]

    def copying(self) -> list[ExpertId]:
        """Every expert under way, in order."""
        return [ExpertId(int(l), int(e)) for l, e in np.argwhere(self.state_LE == COPYING)]

    def evictable(self, layer: int, active_N: IntArray) -> IntArray:
        """Flat indices (layer * E + expert) of residents that may be victims while `layer` runs `active_N`."""
        idle_LE = self.state_LE == RESIDENT
        idle_LE[layer, active_N] = False
        victims: IntArray = idle_LE.reshape(-1).nonzero()[0]
        return victims


class Residency(Reading):
    """The same, to be changed. All slots are of one size, that of the largest expert.

    Whole decisions go through board/contract.py, single changes through apply(); either keeps
    copying + resident + free == num_slots, and a slot of its own for everything that is not absent.
    `experts_L`: of each layer, where some have fewer than others; those that do not exist are NO_EXPERT for good.
    `shown`: what others may see of it.
    """

    def __init__(
        self,
        num_layers: int,
        num_experts: int,
        num_slots: int,
        board: Board | None = None,
        experts_L: Sequence[int] = (),
    ) -> None:
        made = open_board(*new_board(num_layers, num_experts, num_slots)) if board is None else board
        super().__init__(num_layers, num_experts, made)
        self._state_LE = made.state_F.reshape(num_layers, num_experts)
        self._slot_LE = made.slot_F.reshape(num_layers, num_experts)
        for layer, experts in enumerate(experts_L):
            self._state_LE[layer, experts:] = NO_EXPERT
        self.shown = Reading(num_layers, num_experts, Board._make(map(read_only, made)))

    def apply(self, change: Change) -> None:
        """Make one change, or raise ResidencyError and leave everything as it was."""
        at, state, slot, expert = self._board.at, self._state_LE, self._slot_LE, change.expert
        match change:
            case Fetch(_, victim):
                self._require(expert, ABSENT, "fetched")
                if victim is None:
                    if at[FREE] < 1:
                        raise ResidencyError(f"{expert} was fetched into a free slot, and there is none")
                    at[FREE] -= 1
                    slot[expert] = self._board.free_S[at[FREE]]
                else:
                    self._require(victim, RESIDENT, "evicted")
                    state[victim] = ABSENT
                    slot[expert], slot[victim] = slot[victim], FREE_SLOT
                state[expert] = COPYING
                at[UNDER_WAY] += 1
            case Evict():
                self._require(expert, RESIDENT, "evicted")
                self._free(expert)
            case Arrive():
                self._require(expert, COPYING, "reported as arrived")
                state[expert] = RESIDENT
                at[UNDER_WAY] -= 1
            case Drop():
                self._require(expert, COPYING, "dropped")
                at[UNDER_WAY] -= 1
                self._free(expert)

    def fill(self, experts: Iterable[ExpertId]) -> list[ExpertId]:
        """Make experts resident before the first step, as far as slots go; what was taken, in order."""
        taken = []
        for expert in experts:
            if not self.free_slots:
                break
            if self._state_LE[expert] == ABSENT:
                self.apply(Fetch(expert, None, False, "from the start"))
                self.apply(Arrive(expert))
                taken.append(expert)
        return taken

    def recount(self) -> None:
        """After a change that was interrupted half-way (Ctrl-C): slots and counts follow the states again.

        Who has a state and no slot of its own is absent.
        """
        state_F, slot_F, at = self._board.state_F, self._board.slot_F, self._board.at
        taken: set[int] = set()
        for f in np.flatnonzero((state_F == COPYING) | (state_F == RESIDENT)).tolist():
            slot = int(slot_F[f])
            if slot in taken or not 0 <= slot < self.num_slots:
                state_F[f] = ABSENT
            else:
                taken.add(slot)
        slot_F[(state_F == ABSENT) | (state_F == NO_EXPERT)] = FREE_SLOT
        free = [slot for slot in reversed(range(self.num_slots)) if slot not in taken]
        self._board.free_S[: len(free)] = free
        at[FREE], at[UNDER_WAY] = len(free), np.count_nonzero(state_F == COPYING)

    def moves(self, num_slots: int, kept: int) -> list[Move]:
        """What takes residents out of slots from `kept` on, into free ones below `num_slots`, the lowest first.

        Raises ResidencyError where they have no room, or a copy is under way.
        """
        if self.num_copying:
            raise ResidencyError(f"{self.num_copying} copies are under way, and slots cannot change")
        there_F = np.flatnonzero(self._board.state_F == RESIDENT)
        slot_of = {int(f): int(self._board.slot_F[f]) for f in there_F}
        leaving = sorted((slot, f) for f, slot in slot_of.items() if slot >= kept)
        stay = {slot for slot in slot_of.values() if slot < kept}
        free = [slot for slot in range(num_slots) if slot not in stay]
        if len(leaving) > len(free):
            raise ResidencyError(f"{len(slot_of)} experts are resident, more than {num_slots} slots hold")
        experts = self.state_LE.shape[1]
        return [Move(ExpertId(*divmod(f, experts)), old, new) for (old, f), new in zip(leaving, free, strict=False)]

    def resize(self, num_slots: int, moves: Sequence[Move]) -> None:
        """So many slots from now on; `moves` as moves() has found them."""
        for expert, _, new in moves:
            self._slot_LE[expert] = new
        self._board.at[SLOTS] = num_slots
        self.recount()

    def check(self) -> None:
        """Verify the invariants; raises ResidencyError with the numbers."""
        state_F, slot_F = self._board.state_F, self._board.slot_F
        is_there_F = (state_F == COPYING) | (state_F == RESIDENT)
        used, free = int(np.count_nonzero(is_there_F)), self.free_slots
        if used + free != self.num_slots or free < 0:
            raise ResidencyError(f"{used} slots used + {free} free != {self.num_slots} slots")
        if np.count_nonzero(state_F == COPYING) != self.num_copying:
            raise ResidencyError(f"{self.num_copying} copies are said to be under way, and there are others")
        if state_F.max(initial=0) > NO_EXPERT:
            raise ResidencyError("an expert is in no known state")
        slots = np.concatenate([slot_F[is_there_F], self._board.free_S[:free]])
        if not np.array_equal(np.sort(slots), np.arange(self.num_slots)) or (slot_F[~is_there_F] != FREE_SLOT).any():
            raise ResidencyError("slots are not each held by one expert or free")

    def _free(self, expert: ExpertId) -> None:
        at, slot = self._board.at, self._slot_LE
        self._board.free_S[at[FREE]] = slot[expert]
        at[FREE] += 1
        slot[expert], self._state_LE[expert] = FREE_SLOT, ABSENT

    def _require(self, expert: ExpertId, state: int, what: str) -> None:
        found = int(self._state_LE[expert])
        if found != state:
            names = State(found).name, State(state).name
            raise ResidencyError("layer {} expert {} was {} while {}, not {}".format(*expert, what, *names))
