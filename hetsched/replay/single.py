"""replay_one: one strategy looked at closely. Where the time goes, what hits where, and a few layers drawn.

Shapes: L layers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..forecast.fed import Replayed, configured
from ..forecast.score import score
from ..policy import Policy
from ..runlog.logged import LoggedScheduler
from ..runlog.opening import logging
from ..scheduler import IDLE, Scheduler
from ..types import Copies, Demand, FloatArray, LinkState, Plan
from ..types import Outcome as LayerOutcome
from .cell import Cell, Row
from .facts import facts_of
from .limits import Limit
from .opened import Bench, first_tokens
from .result import BoundRow, gather
from .simulator import ConstantClock, Progress, simulate
from .strategies import refuse_unasked, refuse_unasked_forecaster, strategies_of
from .study import Study, check_fraction
from .workers import Outcome, Task, attempt

SCHEMA = "hetsched-simulate/1"
FORESEEN = 256  # tokens on which the forecaster is scored


class Moment(NamedTuple):
    """One layer as it was run: the decision with what the link reported, and the link once the lanes had begun."""

    outcome: LayerOutcome
    link: LinkState
    begun: LinkState


class RecordingScheduler(LoggedScheduler):
    """A scheduler that notes hits of each layer, and every moment of one step. Noting is not charged as decision."""

    watch_step: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch_step = -1
        layers = self.geometry.num_layers
        self.hits_L, self.active_L = np.zeros(layers, np.int64), np.zeros(layers, np.int64)
        self.moments: list[Moment] = []
        self._link = self._begun = IDLE

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer."""
        before = self.stats.hits
        plan = super().step(demand, link)
        self.hits_L[demand.layer] += self.stats.hits - before
        self.active_L[demand.layer] += len(demand.active)
        self._link = link
        return plan

    def prefetch(self, link: LinkState = IDLE) -> Copies:
        """Learn and choose copies while the lanes work."""
        self._begun = link
        return super().prefetch(link)

    def observe(self, outcome: LayerOutcome) -> None:
        """Take note of an executed plan."""
        super().observe(outcome)
        if outcome.plan.demand.step == self.watch_step:
            self.moments.append(Moment(outcome, self._link, self._begun))


@dataclass(frozen=True)
class Report:
    """One strategy in full. `stats`: RunStats.as_dict(); `hit_rate_L` at demand; `moments`: the step in the middle."""

    row: Row
    bounds: list[BoundRow]
    stats: dict[str, Any]
    hit_rate_L: FloatArray
    moments: list[Moment]
    scheduler: Scheduler
    facts: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON document "hetsched-simulate/1"."""
        return {
            "schema": SCHEMA,
            **self.facts,
            "row": asdict(self.row),
            "bounds": [bound._asdict() for bound in self.bounds],
            "stats": self.stats,
            "hit_rate_by_layer": self.hit_rate_L.tolist(),
        }


def replay_one(
    study: Study, strategy: str, gpu_fraction: float, progress: Progress | None = None, log: Path | None = None
) -> Report:
    """Replay one strategy on the study's only machine; `log`: where its run log goes (hetsched.runlog).

    Raises InputError for bad arguments.
    """
    (chosen,), (machine,) = strategies_of([strategy]), study.machines
    check_fraction(gpu_fraction)
    refuse_unasked(study.solver, [chosen])
    refuse_unasked_forecaster(study.forecaster, [chosen])
    bench = Bench(study)
    cell = Cell(machine, gpu_fraction, chosen)
    if study.decision_s is None:
        cell.try_out(bench)
    scheduler = bench.scheduler(machine, gpu_fraction, chosen.policy(), RecordingScheduler, _clock(study.decision_s))
    assert isinstance(scheduler, RecordingScheduler)
    scheduler.watch_step = bench.steps.count // 2
    charged = study.host_layer_s(machine), study.true_machine
    with logging(scheduler, log, machine, "simulated", at_once=True) as ending:
        replayed = simulate(bench.scored, bench.steps, scheduler, progress, *charged)
        ending(replayed.stats.as_dict())
    tasks: list[Task] = [cell, *([Limit(machine, gpu_fraction)] if study.bound_windows else [])]
    outcomes: list[Outcome] = [cell.result(bench, replayed), *(attempt(bench, task) for task in tasks[1:])]
    gathered = gather(
        tasks, outcomes, {**facts_of(bench), **_foresight(bench, chosen.policy(), scheduler.frequency_LE)}
    )
    return Report(
        row=gathered.rows[0],
        bounds=gathered.bounds,
        stats=replayed.stats.as_dict(),
        hit_rate_L=scheduler.hits_L / np.maximum(scheduler.active_L, 1),
        moments=scheduler.moments,
        scheduler=scheduler,
        facts=gathered.facts,
    )


def _foresight(bench: Bench, policy: Policy, known_LE: FloatArray | None) -> dict[str, Any]:
    """What the strategy's forecaster is worth alone: scored on the first tokens, each before its layer's router ran.

    By a forecaster of its own: scoring starts it anew, and the replay's has what was learned. `known_LE`: what the
    replay began with. `observe_s`: wall seconds of learning a layer, None in a replay that is to be reproducible.
    """
    study, asked = bench.study, bench.study.forecaster_of(policy)
    if asked is None:
        return {}
    first = first_tokens(bench.scored, min(bench.scored.num_tokens, FORESEEN))
    part = replace(first, step_T=None)  # token by token, whatever the replay's steps
    clock = time.perf_counter if study.decision_s is None else None
    made = asked if isinstance(asked, type) else copy.deepcopy(asked)
    forecaster = configured(made, Replayed(part), study.learned)
    asked_of = forecaster, study.geometry, part, bench.history
    scored = score(*asked_of, frequency_LE=known_LE, clock=clock)
    figures = {"tokens": scored.tokens, "recall": scored.recall, "log_score": scored.log_score}
    figures["calibration_error"] = scored.calibration_error
    return {"forecast": {"forecaster": scored.name, **figures, "observe_s": scored.observe_s if clock else None}}


def _clock(decision_s: float | None) -> Callable[[], float]:
    return time.perf_counter if decision_s is None else ConstantClock(decision_s)
