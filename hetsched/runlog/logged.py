"""LoggedScheduler: a scheduler whose run is logged. One that is not is a plain Scheduler, which looks for no log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..faults import Fault
from ..scheduler import IDLE, Scheduler
from ..types import Copies, Demand, ExpertId, Float32Array, Lane, LinkState, Outcome, Plan

if TYPE_CHECKING:
    from .recording import LayerLog


class LoggedScheduler(Scheduler):
    """Tells `log`, if there is one, what it decides and what that came to. That is not charged as decision."""

    log: LayerLog | None = None

    def begin_step(self, new_request: bool = False, drafting: bool = False) -> None:
        """The next step is, or is not, the first of a request; between requests there is time to make lines."""
        super().begin_step(new_request, drafting)
        if self.log is not None:
            self.log.between_steps(new_request)

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer."""
        log = self.log
        if log is None:
            return super().step(demand, link)
        if demand.step != log.step:
            log.begin_step(demand.step)
        plan = super().step(demand, link)
        if log.is_open:
            log.ring.decided()
        return plan

    def foresee(self, draft_DLE: Float32Array, link: LinkState = IDLE) -> Copies:
        """Between steps: choose copies for drafts."""
        copies = super().foresee(draft_DLE, link)
        if self.log is not None:
            self.log.drafted(copies)
        return copies

    def observe(self, outcome: Outcome) -> None:
        """Take note of an executed plan."""
        log = self.log
        if log is not None:
            if self._planned is not None and outcome.plan is not self._planned:  # some were moved when they failed
                before, after = (
                    {r.expert.expert for r in plan.runs if r.lane is Lane.CPU} for plan in (self._planned, outcome.plan)
                )
                log.failed(sorted(after - before))
            if not log.is_open:
                log.missed()
            elif log.ring.executed(outcome):
                log.full()
        super().observe(outcome)

    def fault(self, fault: Fault, reason: str) -> None:
        """Count what was survived."""
        super().fault(fault, reason)
        if self.log is not None:
            self.log.event("fault", f"{fault.value}: {reason}")

    def lose(self, expert: ExpertId, reason: str) -> None:
        """A copy failed."""
        super().lose(expert, reason)
        if self.log is not None:
            self.log.event("lost", f"layer {expert.layer} expert {expert.expert}", expert.layer)

    def note_moves(self) -> None:
        """Take note of strategies that now decide in place of others."""
        before = len(self.stats.moves)
        super().note_moves()
        if self.log is not None:
            for move in self.stats.moves[before:]:
                self.log.event("guard", move.line())
