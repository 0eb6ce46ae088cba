"""Study: what all cells of a comparison share, as a recipe that can be sent to a worker, and opened there (Bench)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..estimate import Subject
from ..estimate.subject import subject_held
from ..forecast import DEFAULT_FORECASTER, Learned
from ..forecast import traits as forecaster_traits
from ..geometry import MoEGeometry
from ..machine import gallery
from ..machine.drift import TrueMachine
from ..machine.profile import HardwareProfile
from ..plugins import plugin
from ..policy import Policy, is_compiled, traits_of
from ..scheduler import DEFAULT_SOLVER
from ..traces.trace import RoutingTrace
from .drafts import Speculation

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
    `draft_bytes`: the experts' memory is less by so much. `subject`: sizes of all of the model, for what a replay of
    layers with experts leaves out (left_out.py); None: not known, and not counted.
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
    subject: Subject | None = None

    @classmethod
    def of(
        cls,
        trace: str | Path | RoutingTrace,
        model: str | MoEGeometry,
        hardware: Sequence[str | HardwareProfile],
        dtype: str | None = None,
        config: Any = None,
    ) -> Study:
        """A study with the usual settings; models and machines by gallery name, path, or as objects.

        `config`: the model's, where it is given as an object; of one by name it is looked up.
        """
        if not hardware:
            raise InputError("no hardware was named; give at least one machine")
        if dtype is not None and not isinstance(model, str):
            raise InputError(f"dtype {dtype} was given beside a model object; use its with_dtype({dtype!r}) instead")
        geometry = gallery.model(model, dtype) if isinstance(model, str) else model
        known = gallery.model_config(model) if config is None and isinstance(model, str) else config
        machines = tuple(gallery.machine(name) if isinstance(name, str) else name for name in hardware)
        names = [machine.name for machine in machines]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"hardware {twice[0]} is named twice")
        subject = None if known is None else subject_held(geometry, known)
        return cls(Path(trace) if isinstance(trace, str) else trace, geometry, machines, subject=subject)

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


def _same(one: Path | RoutingTrace, other: Path | RoutingTrace) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return os.path.realpath(one) == os.path.realpath(other)
    return one is other


def name_of(source: Path | RoutingTrace) -> str:
    """A trace's file, or what it says of itself."""
    return str(source) if isinstance(source, Path) else str(source.meta.get("model", "in memory"))
