"""Copies under way: started, reported, waited for, and given up when they fail or do not end."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from ..accelerators.base import Accelerator, Event
from ..cost.model import CostModel
from ..faults import Fault, story
from ..types import ExpertId, Fetch, LinkState
from .copy_watch import CopyWatch
from .host_store import HostStore
from .recovery import LinkAge, Listener, Patience, RefusedWork, error_of
from .slots import SlotPool

NOTHING = LinkState()
LOOKS = 4  # at overdue copies in the time that they are given at least


class CopiesUnderWay:
    """The event of each copy until it has been reported as arrived, or as lost to `listener`, its slot then free.

    `event_of`: these. `told`: by whose seconds the accelerator goes; what it says is left is reported in those of
    `cost`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        cost: CostModel,
        told: CostModel,
        slots: SlotPool,
        listener: Listener,
        patience: Patience,
    ) -> None:
        self._accelerator = accelerator
        self._cost, self._told = cost, told
        self._slots = slots
        self._listener = listener
        self._arrived, self._arrived_s = 0, 0.0
        self._scaled_at, self._scaled = -1, 1.0
        self._watch = CopyWatch(accelerator.cancel)
        self._age = LinkAge(time.monotonic)
        self.event_of: dict[ExpertId, Event] = {}
        self._expert_of: dict[Event, ExpertId] = {}
        self.be_patient(patience)

    def be_patient(self, patience: Patience) -> None:
        """From now on give copies up after this long."""
        self._patience = patience
        self._watch.look_s = patience.slack_s / LOOKS

    def start(self, fetch: Fetch, store: HostStore) -> None:
        """Queue one copy into the expert's slot."""
        row = store.row(fetch.expert)
        target = self._slots.buffer(fetch.expert, row.numel())
        try:
            event = self._accelerator.copy_in(row, target, seconds=self._told.copy_s(), urgent=not fetch.prefetch)
        except Exception as error:  # a driver's; whoever needs this copy goes to the CPU lane
            event = RefusedWork(error)
        self.event_of[fetch.expert], self._expert_of[event] = event, fetch.expert

    def of_layer(self, layer: int) -> dict[int, Event]:
        """The events of the copies of a layer's experts that have not been reported."""
        return {expert.expert: event for expert, event in self.event_of.items() if expert.layer == layer}

    def link_state(self, between_layers: bool) -> LinkState:
        """The copy engine now; between layers, one that has been at the same copy for too long is cleared."""
        free_s, unfinished = self._accelerator.copy_state()
        if unfinished and between_layers and self._age.is_over(unfinished[0][0], self._limit_s()):
            self._listener.fault(Fault.OVERDUE, f"{len(unfinished)} copies behind one that did not end")
            self._accelerator.cancel()
            free_s, unfinished = 0.0, ()
        expert_of, scale = self._expert_of, self._scale()
        free_s *= scale
        in_flight = tuple([(expert_of[event], left_s * scale) for event, left_s in unfinished])
        if len(in_flight) == len(expert_of):
            return LinkState(free_s, (), in_flight)
        waiting = {expert for expert, _ in in_flight}
        ended = [expert for expert in self.event_of if expert not in waiting]
        return LinkState(free_s, tuple([expert for expert in ended if self._has_arrived(expert)]), in_flight)

    def _scale(self) -> float:
        """Seconds of a copy as believed now, to each of those that the accelerator goes by."""
        if self._scaled_at != self._cost.version:
            self._scaled_at, self._scaled = self._cost.version, self._cost.copy_s() / self._told.copy_s()
        return self._scaled

    def wait(self, events: Sequence[Event], awaited: Collection[Event]) -> float:
        """Wait for a layer's events; its makespan in seconds.

        `awaited`: the copies among what they depend on. When these are overdue everything is cancelled, which raises
        Cancelled here. Raises LaneError where work failed.
        """
        self._watch.arm(awaited, self._limit_s())
        try:
            return self._accelerator.end_layer(events)
        finally:
            if self._watch.disarm():
                self._listener.fault(Fault.OVERDUE, f"a layer waited for {len(awaited)} copies")

    def take_arrived(self) -> tuple[int, float]:
        """How many copies were reported as arrived since this was last asked, and the link's seconds for them."""
        taken = self._arrived, self._arrived_s
        self._arrived, self._arrived_s = 0, 0.0
        return taken

    def drop_failed(self) -> None:
        """Forget the copies that have failed."""
        for expert in [expert for expert, event in self.event_of.items() if event.failed]:
            self._has_arrived(expert)

    def forget(self) -> None:
        """Cancel everything; nothing is reported."""
        self._watch.disarm()
        self._accelerator.cancel()
        self.event_of.clear()
        self._expert_of.clear()

    def close(self) -> None:
        """End the watching thread. May be called twice."""
        self._watch.close()

    def _has_arrived(self, expert: ExpertId) -> bool:
        copy = self.event_of.pop(expert)
        del self._expert_of[copy]
        if not copy.failed:
            self._arrived += 1
            self._arrived_s += copy.busy_s
            return True
        self._listener.lose(expert, story(error_of(copy)))
        return False

    def _limit_s(self) -> float:
        return self._patience.slack_s + self._patience.times * len(self.event_of) * self._cost.copy_s()
