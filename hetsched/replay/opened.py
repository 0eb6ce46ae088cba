"""Bench: a study opened, with its trace, its steps, and schedulers for them.

Shapes: L layers, E experts, S steps.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..forecast.emulated_draft import USUAL_ACCURACY
from ..forecast.fed import Replayed
from ..machine.profile import HardwareProfile
from ..policy import Policy, traits_of
from ..scheduler import DEFAULT_SOLVER, Scheduler
from ..traces.speculative import speculate
from ..traces.split import sequence_starts, split, tokens
from ..traces.trace import RoutingTrace, load_trace
from ..traces.verified import text_of
from ..types import FloatArray
from .drafts import AUTO
from .left_out import LeftOut
from .simulator import check_shape
from .steps import Steps, steps_of
from .study import Study, name_of


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
        self._left_out: dict[str, list[tuple[int, LeftOut]]] = {}
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

    def left_out(self, machine: HardwareProfile) -> list[tuple[int, LeftOut]]:
        """What a replay leaves out, from each step on at which the machine changes; [] where it is not known."""
        study, true = self.study, self.study.true_machine
        if study.subject is None:
            return []
        if machine.name not in self._left_out:
            spans = [(0, machine)] if true is None else true.spans()
            self._left_out[machine.name] = [(begin, LeftOut(study.subject, profile)) for begin, profile in spans]
        return self._left_out[machine.name]

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


def first_tokens(trace: RoutingTrace, count: int) -> RoutingTrace:
    """The first tokens of a trace."""
    return tokens(trace, slice(0, count))


def _opened(source: Path | RoutingTrace) -> RoutingTrace:
    return load_trace(source) if isinstance(source, Path) else source
