"""Study: what all cells of a comparison share, as a recipe that can be sent to a worker, and opened there.

Shapes: L layers, E experts, S steps.
"""

from __future__ import annotations

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
from ..machine.profile import HardwareProfile
from ..plugins import plugin
from ..policy import Policy, traits_of
from ..scheduler import DEFAULT_SOLVER, Scheduler
from ..traces.split import sequence_starts, split, tokens
from ..traces.trace import RoutingTrace, load_trace
from ..types import FloatArray, Phase
from .simulator import check_shape
from .steps import Steps, steps_of

MEASURED = None  # as `decision_s`: charge what the scheduler's own clock says; as `host_s`: what the profile says

MEASURED_NOTE = (
    "decisions are charged what they take on this host, compilation apart: each its own time, or for compiled "
    "strategies the mean of a trial run, called as a model's engine calls them"
)


@dataclass(frozen=True)
class Study:
    """The trace and how it is replayed. `source`: a file, opened anew by each worker, or a trace in memory.

    `fit_sequences`: share of the sequences, the first ones, that everything fitted is fitted on; the others are scored,
    at most `max_tokens` of them. 0 fits nothing and scores everything. `fit_source`: another trace of the model, on all
    of which everything is fitted; then the whole of `source` is scored, and `fit_sequences` has to be 0. `decision_s`:
    seconds charged for each decision, or MEASURED. `host_s`: seconds charged for each layer for the engine itself,
    whatever the strategy, or MEASURED, as each profile says of its host. `bound_windows`: windows of the clairvoyant
    bound, 0 for none. `forecaster`: for strategies that ask one, None: each its own. `learned`: what other runs have
    learned, on top of what is fitted.
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
                f"{_name(self.source)} would be scored on what was fitted on it; give another trace to fit on, or "
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

    def foresees(self, policy: Any) -> bool:
        """Whether the forecaster that a policy asks knows the future."""
        return "future" in forecaster_traits(self.forecaster_of(policy)).needs

    def gpu_bytes(self, gpu_fraction: float) -> int:
        """Memory for experts at a fraction of all of them."""
        return int(gpu_fraction * self.geometry.total_expert_bytes)


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
        self.trace_name = _name(study.source)
        self.history: RoutingTrace | None = None
        scored = trace
        if study.fit_sequences:
            self.history, scored = split(trace, study.fit_sequences)
        elif study.fit_source is not None:
            self.history = _opened(study.fit_source)
            check_shape(self.history, shape.num_layers, shape.num_experts, shape.name)
        self.steps: Steps = steps_of(scored, mode=study.replay, verify=study.verify, max_tokens=study.max_tokens)
        if not self.steps.count:
            raise InputError(f"{self.trace_name} has no token to score; give a longer trace")
        self.scored = first_tokens(scored, int(self.steps.end_S[-1]))

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
        """A scheduler that knows the history, and the future only where its policy or forecaster is clairvoyant."""
        made: Scheduler = kind(
            self.study.geometry,
            machine,
            self.study.gpu_bytes(gpu_fraction),
            policy=policy,
            solver=self.study.solver if traits_of(policy).uses_solver else DEFAULT_SOLVER,
            frequency_LE=self.frequency_LE,
            history=self.history,
            future=self.future if traits_of(policy).clairvoyant or self.study.foresees(policy) else None,
            clock=clock,
            forecaster=self.study.forecaster if traits_of(policy).uses_forecaster else None,
            learned=self.study.learned,
            contexts=Replayed(self.future, draft_accuracy=getattr(policy, "draft_accuracy", USUAL_ACCURACY))
            if traits_of(policy).uses_forecaster
            else None,
        )
        return made

    def facts(self) -> dict[str, object]:
        """What a reader must know of the replay, whatever the strategy; ready for JSON."""
        study, steps = self.study, self.steps
        charge = "measured" if study.decision_s is None else study.decision_s
        fitted, scored = self.num_sequences
        return {
            "trace": self.trace_name,
            "model": study.geometry.name,
            "fit_trace": None if study.fit_source is None else _name(study.fit_source),
            "fit_sequences": study.fit_sequences,
            "sequences_fitted": fitted,
            "sequences_scored": scored,
            "tokens_scored": self.scored.num_tokens,
            "steps": steps.count,
            "phases": {name: int(count) for name, count in _phases(steps)},
            "replay": study.replay,
            "verify": study.verify,
            "decision_charge": charge,
            "host_charge": "measured" if study.host_s is None else study.host_s,
            "solver": study.solver,
            "forecaster": study.forecaster_name,
            "notes": [
                *([steps.note] if steps.note else []),
                *([f"fitted on all of {_name(study.fit_source)}"] if study.fit_source is not None else []),
                "the cache is carried over between sequences; no warm-up is left out",
                MEASURED_NOTE
                if study.decision_s is None
                else f"every decision is charged {study.decision_s * 1e6:g} µs",
                *self._host_notes(),
                *(f"{m.name}: simulated on a profile whose figures are {m.source.value}" for m in study.machines),
            ],
        }

    def _host_notes(self) -> list[str]:
        """What is charged for the engine itself, and where it is from."""
        study = self.study
        if study.host_s == 0:
            return ["the engine's own time between decisions is not charged"]
        charged = {1e6 * study.host_layer_s(m): m.reasons.get("host.layer_s", "") for m in study.machines}
        return [
            f"every layer is charged {host_us:.0f} µs for the engine itself, whatever the strategy; bounds are not"
            + (f" ({how})" if how and study.host_s is None else "")
            for host_us, how in charged.items()
        ]


def _opened(source: Path | RoutingTrace) -> RoutingTrace:
    return load_trace(source) if isinstance(source, Path) else source


def _same(one: Path | RoutingTrace, other: Path | RoutingTrace) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return one is other


def _name(source: Path | RoutingTrace) -> str:
    return str(source) if isinstance(source, Path) else str(source.meta.get("model", "in memory"))


def first_tokens(trace: RoutingTrace, count: int) -> RoutingTrace:
    """The first tokens of a trace."""
    return tokens(trace, slice(0, count))


def _phases(steps: Steps) -> list[tuple[str, int]]:
    return [(p.name.lower(), n) for p in Phase if (n := int((steps.phase_S == p).sum()))]
