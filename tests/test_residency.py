"""Residency against a plain model: whatever is asked, states, slots and bytes agree, and refusals change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hetsched.residency import Arrive, Change, Drop, Residency, ResidencyError, State
from hetsched.types import Evict, ExpertId, Fetch

LAYERS, EXPERTS, SLOTS = 2, 4, 3
ids = st.builds(ExpertId, st.integers(0, LAYERS - 1), st.integers(0, EXPERTS - 1))


class AgainstAPlainModel(RuleBasedStateMachine):
    """The model is a dictionary from expert to state; what is not in it is absent."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Residency(LAYERS, EXPERTS, SLOTS)
        self.slots = SLOTS
        self.model: dict[ExpertId, State] = {}

    def attempt(self, change: Change, allowed: bool) -> bool:
        before = self.real.state_LE.copy()
        if allowed:
            self.real.apply(change)
            return True
        with pytest.raises(ResidencyError):
            self.real.apply(change)
        assert (self.real.state_LE == before).all()
        return False

    @rule(expert=ids, victim=st.none() | ids)
    def fetch(self, expert: ExpertId, victim: ExpertId | None) -> None:
        room = len(self.model) < self.slots if victim is None else self.model.get(victim) is State.RESIDENT
        if self.attempt(Fetch(expert, victim, False, "test"), expert not in self.model and room):
            if victim is not None:
                del self.model[victim]
            self.model[expert] = State.COPYING

    @rule(expert=ids)
    def arrive(self, expert: ExpertId) -> None:
        if self.attempt(Arrive(expert), self.model.get(expert) is State.COPYING):
            self.model[expert] = State.RESIDENT

    @rule(expert=ids)
    def drop(self, expert: ExpertId) -> None:
        if self.attempt(Drop(expert), self.model.get(expert) is State.COPYING):
            del self.model[expert]

    @rule(expert=ids)
    def evict(self, expert: ExpertId) -> None:
        if self.attempt(Evict(expert, "test"), self.model.get(expert) is State.RESIDENT):
            del self.model[expert]

    @rule(slots=st.integers(0, LAYERS * EXPERTS), kept=st.integers(0, LAYERS * EXPERTS))
    def resize(self, slots: int, kept: int) -> None:
        """Whoever has a slot that goes moves to one that stays; without room for all, nothing changes."""
        kept = min(kept, slots, self.slots)
        if State.COPYING in self.model.values() or len(self.model) > slots:
            before = self.real.slot_LE.copy()
            with pytest.raises(ResidencyError, match=r"under way|more than"):
                self.real.moves(slots, kept)
            assert (self.real.slot_LE == before).all()
            return
        where = {expert: self.real.slot(expert) for expert in self.model}
        moves = self.real.moves(slots, kept)
        assert {(expert, old) for expert, old, _ in moves} == {(e, slot) for e, slot in where.items() if slot >= kept}
        assert not {new for _, _, new in moves} & {slot for slot in where.values() if slot < kept}
        self.real.resize(slots, moves)
        self.slots = slots
        for expert, slot in where.items():
            assert self.real.slot(expert) == slot or slot >= kept

    @invariant()
    def agrees(self) -> None:
        self.real.check()
        assert self.real.free_slots == self.slots - len(self.model)
        assert self.real.num_slots == self.real.shown.num_slots == self.slots
        for layer in range(LAYERS):
            for e in range(EXPERTS):
                expert = ExpertId(layer, e)
                assert self.real.state(expert) is self.model.get(expert, State.ABSENT)

    @rule(layer=st.integers(0, LAYERS - 1), active=st.sets(st.integers(0, EXPERTS - 1)))
    def victims_are_idle_residents(self, layer: int, active: set[int]) -> None:
        flat = self.real.evictable(layer, np.array(sorted(active), np.int64))
        found = {ExpertId(*divmod(int(i), EXPERTS)) for i in flat}
        busy = {ExpertId(layer, e) for e in active}
        assert found == {e for e, state in self.model.items() if state is State.RESIDENT} - busy


TestResidency = AgainstAPlainModel.TestCase
TestResidency.settings = settings(max_examples=60, stateful_step_count=30)


def test_fill_stops_at_the_last_slot() -> None:
    residency = Residency(LAYERS, EXPERTS, SLOTS)
    wanted = [ExpertId(0, 0), ExpertId(0, 0), ExpertId(1, 1), ExpertId(1, 2), ExpertId(1, 3)]
    assert residency.fill(wanted) == [ExpertId(0, 0), ExpertId(1, 1), ExpertId(1, 2)]
    residency.check()


def test_nobody_else_writes_the_state() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Residency(1, 2, 1).state_LE[0, 0] = 2
