"""A scheduler under watch whose layers take what a test says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hetsched.bench.guard_cases import habitual
from hetsched.machine import gallery
from hetsched.replay.simulator import demands
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.shadow import DECIDES, STATIC
from hetsched.shadow.watchdog import SIMPLE, Move
from hetsched.testing.policies import SHAPE
from hetsched.types import LinkState, Outcome, Phase, Plan

MACHINE = gallery.machine("rtx-4060-laptop-8gb")
NAMES = ("hetsched", *SIMPLE)
Takes = Callable[[str, float, float], float]  # who decides, seconds predicted, static-frequency's -> seconds measured


TRACE = habitual((SHAPE.num_layers, SHAPE.num_experts, SHAPE.top_k), 1200, 3)


def known() -> Any:
    """A frequency that placements can go by."""
    return TRACE.demand_LE(slice(0, 1200)).astype(float)


class Driver:
    """Steps of one token on made-up routing; copies arrive before the next layer, where the link is not `busy`."""

    def __init__(self, slots: int = 13, busy: bool = False, phase: Phase = Phase.DECODE, **options: Any) -> None:
        given = {"frequency_LE": known(), "recalibrate": False, "watch": True, "clock": lambda: 0.0, **options}
        self.scheduler = Scheduler(SHAPE, given.pop("machine", MACHINE), slots * SHAPE.expert_bytes, **given)
        assert self.scheduler.watchdog is not None
        self.watch = self.scheduler.watchdog.watch
        self._busy, self._phase = busy, phase
        self._steps = demands(TRACE, steps_of(TRACE))

    @property
    def moves(self) -> list[Move]:
        return self.scheduler.stats.moves

    @property
    def decides(self) -> str:
        return NAMES[self.watch.at[DECIDES]]

    def run(self, steps: int, takes: Takes) -> list[Plan]:
        """So many steps; all their plans."""
        plans = []
        for layers in itertools.islice(self._steps, steps):
            for one in layers:
                demand = self.scheduler.demand(one.layer, one.tokens_E, one.num_tokens, self._phase)
                plans.append(self._layer(demand, takes))
                self.scheduler.residency.check()
        return plans

    def _layer(self, demand: Any, takes: Takes) -> Plan:
        copying = tuple(self.scheduler.residency.copying())
        flying = tuple((expert, 1e-3) for expert in copying) if self._busy else ()
        link = LinkState(0.0, () if self._busy else copying, flying)
        plan, before_s = self.scheduler.step(demand, link), self.watch.step_s_A.copy()
        self.scheduler.prefetch(LinkState(0.0, (), flying))
        static_s = float((self.watch.step_s_A - before_s)[STATIC])
        self.scheduler.observe(Outcome(plan, 0.0, takes(self.decides, plan.predicted_s, static_s)))
        return plan


def as_predicted(decides: str, predicted_s: float, static_s: float) -> float:
    """What the profile says."""
    return predicted_s


def times_static(factor: float, others: float = 1.0) -> Takes:
    """hetsched takes so many times what static-frequency would; the others so many times what is predicted."""

    def takes(decides: str, predicted_s: float, static_s: float) -> float:
        return factor * static_s if decides == "hetsched" else others * predicted_s

    return takes
