"""Study: what all cells of a comparison share, as a recipe that can be sent to a worker, and opened there.

Shapes: L layers, E experts, S steps.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..forecast import DEFAULT_FORECASTER, Learned
from ..forecast import traits as forecaster_traits
from ..forecast.emulated_draft import USUAL_ACCURACY
from ..forecast.fed import Replayed
from ..geometry import MoEGeometry
from ..machine import gallery
from ..machine.drift import TrueMachine
from ..machine.profile import HardwareProfile
from ..plugins import plugin
from ..policy import Policy, is_compiled, traits_of
from ..scheduler import DEFAULT_SOLVER, Scheduler
from ..traces.speculative import speculate
from ..traces.split import sequence_starts, split, tokens
from ..traces.trace import RoutingTrace, load_trace
from ..traces.verified import text_of
from ..types import FloatArray
from .drafts import AUTO, Speculation
from .simulator import check_shape
from .steps import Steps, steps_of

MEASURED = None  # as `decision_s`: charge what the scheduler's own clock says; as `host_s`: what the profile says


@dataclass(frozen=True)
class Study:
    """The trace and how it is replayed. `source`: a file, opened anew by each worker, or a trace in memory.

    `fit_sequences`: share of the sequences, the first ones, that everything fitted is fitted on; the others are scored,
    at most `max_tokens` of them. 0 fits nothing and scores everything. `fit_source`: another trace of the model, on all
    of which everything is fitted; then the whole of `source` is scored, and `fit_sequences` has to be 0. `decision_s`:
    seconds charged for each decision, or MEASURED. `host_s`: seconds charged for each layer for the engine itself,
    whatever the strategy, or MEASURED, as each profile says of its host. `true_machine`: what work really takes,
    whichever of `machines` a scheduler believes in; None: what it believes. `recalibrate`: as a Scheduler's. `watch`:
    the same, for strategies that declare it; None: where `true_machine` is given. `bound_windows`: windows of the
    clairvoyant bound, 0 for none. `forecaster`: for strategies that ask one, None: each its own. `learned`: what other
    runs have learned, on top of what is fitted. `speculation`: how drafts are made, for cells that verify them;
    `draft_bytes`: the experts' memory is less by so much.
    """

    source: Path | RoutingTrace
    geometry: MoEGeometry
    machines: tuple[HardwareProfile, ...]
    fit_sequences: float = 0.5
    max_tokens: int | None = None
    verify: int = 0
    replay: str = "auto"
    decision_s: float | None = MEASURED
    host_s: float | None = 0.0
    solver: str = DEFAULT_SOLVER
    bound_windows: int = 12
    fit_source: Path | RoutingTrace | None = None
    forecaster: Any = None
    learned: Learned | None = None
    true_machine: TrueMachine | None = None
    recalibrate: bool = True
    watch: bool | None = None
    speculation: Speculation | None = None
    draft_bytes: int = 0

    @classmethod
    def of(
        cls,
        trace: str | Path | RoutingTrace,
        model: str | MoEGeometry,
        hardware: Sequence[str | HardwareProfile],
        dtype: str | None = None,
    ) -> Study:
        """A study with the usual settings; models and machines by gallery name, path, or as objects."""
        if not hardware:
            raise InputError("no hardware was named; give at least one machine")
        if dtype is not None and not isinstance(model, str):
            raise InputError(f"dtype {dtype} was given beside a model object; use its with_dtype({dtype!r}) instead")
        geometry = gallery.model(model, dtype) if isinstance(model, str) else model
        machines = tuple(gallery.machine(name) if isinstance(name, str) else name for name in hardware)
        names = [machine.name for machine in machines]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"hardware {twice[0]} is named twice")
        return cls(Path(trace) if isinstance(trace, str) else trace, geometry, machines)

    def check(self) -> None:
        """Raise InputError for settings out of range."""
        if not 0 <= self.fit_sequences < 1:
            raise InputError(
                f"the fit share is {self.fit_sequences:g}; it must lie in 0..1, and below 1: the rest of the sequences "
                "is what is scored"
            )
        if self.fit_source is not None and self.fit_sequences:
            raise InputError(
                f"a trace to fit on was given beside fit_sequences {self.fit_sequences:g}; with one the other trace is "
                "scored as a whole, so give fit_sequences 0"
            )
        if self.fit_source is not None and _same(self.fit_source, self.source):
            raise InputError(
                f"{name_of(self.source)} would be scored on what was fitted on it; give another trace to fit on, or "
                "fit_sequences, a share of this one"
            )
        if self.decision_s is not None and not 0 <= self.decision_s <= 1:
            raise InputError(f"the decision charge is {self.decision_s:g} s; it must lie in 0..1 s")
        if self.host_s is not None and not 0 <= self.host_s <= 1:
            raise InputError(f"the host charge is {self.host_s:g} s a layer; it must lie in 0..1 s")
        if self.host_s is None and (unknown := [m.name for m in self.machines if m.host is None]):
            raise InputError(f"the profile of {unknown[0]} has no host.layer_s; give host_s seconds a layer, or 0")
        if self.bound_windows < 0:
            raise InputError(f"bound_windows is {self.bound_windows}; it must be at least 0")

    def host_layer_s(self, machine: HardwareProfile) -> float:
        """Seconds charged for each layer for the engine itself."""
        if self.host_s is not None:
            return self.host_s
        return machine.host.layer_s if machine.host else 0.0

    def forecaster_of(self, policy: Any) -> Any:
        """The forecaster that a policy, or a class of them, asks; None where it asks none."""
        if not traits_of(policy).uses_forecaster:
            return None
        usual = getattr(policy, "forecaster", None) or DEFAULT_FORECASTER
        return plugin("hetsched.forecasters", usual if self.forecaster is None else self.forecaster)

    @property
    def forecaster_name(self) -> str | None:
        """The forecaster that was chosen; None: each strategy has its own."""
        named = self.forecaster
        return named if named is None or isinstance(named, str) else str(getattr(named, "name", named))

    def watches(self, policy: Policy) -> bool:
        """Whether simple strategies may decide in a policy's place while it is worse (hetsched.shadow)."""
        return self.is_watched and traits_of(policy).watched and is_compiled(policy)

    @property
    def is_watched(self) -> bool:
        """Whether strategies that declare it are."""
        return self.true_machine is not None if self.watch is None else self.watch

    def foresees(self, policy: Any) -> bool:
        """Whether the forecaster that a policy asks knows the future."""
        return "future" in forecaster_traits(self.forecaster_of(policy)).needs

    def gpu_bytes(self, gpu_fraction: float) -> int:
        """Memory for experts at a fraction of all of them, a draft's apart."""
        return max(0, int(gpu_fraction * self.geometry.all_slots_bytes) - self.draft_bytes)


def fitted_on(fit_sequences: float | None, fit_trace: str | Path | RoutingTrace | None) -> dict[str, Any]:
    """A study's `fit_sequences` and `fit_source`, where they may not have been given: half, or none beside a trace."""
    source = Path(fit_trace) if isinstance(fit_trace, str) else fit_trace
    usual = 0.5 if source is None else 0.0
    return {"fit_sequences": usual if fit_sequences is None else fit_sequences, "fit_source": source}


def check_fraction(gpu_fraction: float) -> None:
    """Raise InputError for a share of the experts that is none."""
    if not 0 <= gpu_fraction <= 1:
        raise InputError(f"GPU fraction {gpu_fraction:g} is outside 0..1; write a quarter as 0.25")


class Bench:
    """A study opened: its trace cut into history and the part that is scored, its steps, and schedulers for it."""

    def __init__(self, study: Study) -> None:
        study.check()
        self.study = study
        trace = _opened(study.source)
        self.whole = trace
        shape = study.geometry
        check_shape(trace, shape.num_layers, shape.num_experts, shape.name)
        self.trace_name = name_of(study.source)
        self.history: RoutingTrace | None = None
        scored = trace
        if study.fit_sequences:
            self.history, scored = split(trace, study.fit_sequences)
        elif study.fit_source is not None:
            self.history = _opened(study.fit_source)
            check_shape(self.history, shape.num_layers, shape.num_experts, shape.name)
        if study.replay == "decode" or study.verify or study.speculation:
            scored = text_of(scored)
        self.steps: Steps = steps_of(scored, mode=study.replay, verify=study.verify, max_tokens=study.max_tokens)
        if not self.steps.count:
            raise InputError(f"{self.trace_name} has no token to score; give a longer trace")
        self.scored = first_tokens(scored, int(self.steps.end_S[-1]))
        self._verifying: dict[int, Bench] = {}
        self.is_planned = True  # the steps to be run are known before

    @cached_property
    def frequency_LE(self) -> FloatArray | None:
        """Tokens per expert of the history, float64 [L, E]."""
        return None if self.history is None else self.history.demand_LE(slice(None)).astype(float)

    @cached_property
    def future(self) -> RoutingTrace:
        """What will be demanded, its tokens numbered by the steps that are replayed."""
        step_T = np.repeat(np.arange(self.steps.count, dtype=np.int32), self.steps.end_S - self.steps.begin_S)
        phase_T = np.repeat(self.steps.phase_S, self.steps.end_S - self.steps.begin_S)
        return replace(self.scored, step_T=step_T, phase_T=phase_T)

    def verifying(self, drafts: int) -> Bench:
        """The bench whose steps verify so many drafts of the study's speculation; this one for none.

        AUTO: with the steps of this one, since those that will be run are known only then.
        """
        speculation = self.study.speculation
        if not drafts or speculation is None:
            return self
        if drafts not in self._verifying:
            made = copy.copy(self)
            made.__dict__.pop("future", None)
            made.study = replace(self.study, draft_bytes=speculation.draft.gpu_bytes)
            made.is_planned = drafts != AUTO
            if made.is_planned:
                made.scored = speculate(self.scored, drafts, speculation.acceptance)
                made.steps = steps_of(made.scored)
            self._verifying[drafts] = made
        return self._verifying[drafts]

    @property
    def num_sequences(self) -> tuple[int, int]:
        """Sequences fitted on, and sequences scored, wholly or in part."""
        parts = (self.history, self.scored)
        fitted, scored = (len(sequence_starts(part)) - 1 if part is not None else 0 for part in parts)
        return fitted, scored

    def scheduler(
        self,
        machine: HardwareProfile,
        gpu_fraction: float,
        policy: Policy,
        kind: type[Scheduler] = Scheduler,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Scheduler:
        """A scheduler that knows the history, and the future only where its policy or forecaster is clairvoyant.

        Raises InputError for a clairvoyant one where the future depends on what is chosen.
        """
        foresees = traits_of(policy).clairvoyant or self.study.foresees(policy)
        if foresees and not self.is_planned:
            raise InputError(f"{policy.name} sees the future, and there is none where drafts are chosen step by step")
        made: Scheduler = kind(
            self.study.geometry,
            machine,
            self.study.gpu_bytes(gpu_fraction),
            policy=policy,
            solver=self.study.solver if traits_of(policy).uses_solver else DEFAULT_SOLVER,
            frequency_LE=self.frequency_LE,
            history=self.history,
            future=self.future if foresees else None,
            clock=clock,
            forecaster=self.study.forecaster if traits_of(policy).uses_forecaster else None,
            learned=self.study.learned,
            recalibrate=self.study.recalibrate,
            watch=self.study.watches(policy),
            contexts=self._contexts(policy),
        )
        return made

    def _contexts(self, policy: Policy) -> Replayed | None:
        """What a forecaster may be told; drafts are emulated, as accurate as the policy says."""
        if not (traits_of(policy).uses_forecaster and self.is_planned):
            return None
        return Replayed(self.future, draft_accuracy=getattr(policy, "draft_accuracy", USUAL_ACCURACY))


def _opened(source: Path | RoutingTrace) -> RoutingTrace:
    return load_trace(source) if isinstance(source, Path) else source


def _same(one: Path | RoutingTrace, other: Path | RoutingTrace) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return os.path.realpath(one) == os.path.realpath(other)
    return one is other


def name_of(source: Path | RoutingTrace) -> str:
    """A trace's file, or what it says of itself."""
    return str(source) if isinstance(source, Path) else str(source.meta.get("model", "in memory"))


def first_tokens(trace: RoutingTrace, count: int) -> RoutingTrace:
    """The first tokens of a trace."""
    return tokens(trace, slice(0, count))
