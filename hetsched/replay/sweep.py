"""compare: strategies on one trace, over machines and shares of the experts, at equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine import gallery
from ..machine.drift import TrueMachine
from ..machine.profile import HardwareProfile
from ..plugins import plugin
from ..traces.trace import RoutingTrace
from .cell import Cell
from .facts import facts_of
from .limits import Limit
from .opened import Bench
from .ray_cluster import run_on_ray
from .result import Comparison, gather
from .strategies import ALL, Strategies, refuse_unasked, refuse_unasked_forecaster, strategies_of
from .study import MEASURED, Study, check_fraction, fitted_on
from .workers import Outcome, Task, run_here, run_in_processes

Progress = Callable[[float, int], None]


def compare(
    trace: str | Path | RoutingTrace,
    model: str | MoEGeometry,
    *,
    hardware: Sequence[str | HardwareProfile],
    gpu_fractions: Sequence[float] = (0.25,),
    strategies: Strategies = ALL,
    dtype: str | None = None,
    config: Any = None,
    fit_sequences: float | None = None,
    fit_trace: str | Path | RoutingTrace | None = None,
    max_tokens: int | None = None,
    verify: int = 0,
    replay: str = "auto",
    decision_s: float | None = MEASURED,
    host_s: float | None = 0.0,
    solver: str = "exact",
    forecaster: Any = None,
    bound_windows: int = 12,
    jobs: int = 1,
    ray: str | None = None,
    true_hardware: str | Path | HardwareProfile | TrueMachine | None = None,
    recalibrate: bool = True,
    watch: bool | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Replay every strategy on every machine at every fraction of the experts' bytes, and rank them.

    `trace`: file or object; `model`: the one it was recorded on, `config`: values of its config.json, from which
    whole tokens a second follow; of a model by name they are known. `strategies`: "all", names, policy objects or
    classes, or {label: any of these}. What is fitted gets the first `fit_sequences` of the sequences (default: half),
    the others are scored; or all of `fit_trace`, another trace of the model, and all of `trace` is scored.
    `verify`, `replay`: as steps_of. `decision_s`: a constant makes results reproducible, and the same for any `jobs`
    and on a Ray cluster (`ray`: its address, or "auto"). `host_s`: seconds a layer for the engine itself, or MEASURED:
    what each profile says of its host. `true_hardware`: what work really takes, whatever machine of `hardware` a
    scheduler believes in (machine/drift.py); `recalibrate`: whether it learns from what it measures. `watch`: let
    simple strategies decide while one that declares it is worse (hetsched.shadow); None: where `true_hardware` is
    given. `forecaster`: for strategies that ask one, in place of their own.
    `progress(done, tasks)`: `done` counts parts of a task too. A strategy that raises is in `failures`, the others go
    on. Raises InputError for bad arguments.
    """
    named = Study.of(trace, model, hardware, dtype, config)
    study = replace(
        named,
        **fitted_on(fit_sequences, fit_trace),
        max_tokens=max_tokens,
        verify=verify,
        replay=replay,
        decision_s=decision_s,
        host_s=host_s,
        solver=solver,
        forecaster=forecaster,
        bound_windows=bound_windows,
        recalibrate=recalibrate,
        watch=watch,
        true_machine=None if true_hardware is None else gallery.true_machine(true_hardware),
    )
    plugin("hetsched.solvers", solver)
    chosen = strategies_of(strategies)
    if strategies != ALL:  # some of those ask, and one that does not load is to fail alone
        refuse_unasked(solver, chosen)
    refuse_unasked_forecaster(forecaster, chosen)
    bench = Bench(study)
    tasks: list[Task] = [Limit(m, f) for m in study.machines for f in fractions_of(gpu_fractions) if bound_windows]
    tasks += [Cell(m, f, s) for m in study.machines for f in fractions_of(gpu_fractions) for s in chosen]

    outcomes = outcomes_of(bench, tasks, jobs=jobs, ray=ray, progress=progress)
    return gather(tasks, outcomes, facts_of(bench))


def outcomes_of(
    bench: Bench, tasks: Sequence[Task], *, jobs: int = 1, ray: str | None = None, progress: Progress | None = None
) -> list[Outcome]:
    """What each task of a bench came to, here, in processes, or on a Ray cluster. Raises InputError for both."""

    def done(count: float) -> None:
        if progress is not None:
            progress(count, len(tasks))

    if jobs < 1:
        raise InputError(f"jobs is {jobs}; it must be at least 1")
    if ray is not None and jobs > 1:
        raise InputError(
            f"jobs is {jobs}, and on a Ray cluster its nodes say how many run at once; drop one of the two"
        )
    if ray is not None:
        return run_on_ray(bench.study, tasks, ray, done)
    if jobs > 1:
        return run_in_processes(bench.study, tasks, min(jobs, len(tasks)), done)
    return run_here(bench, tasks, done)


def fractions_of(given: Sequence[float]) -> list[float]:
    """Shares of the experts, each once. Raises InputError for none, or one outside 0..1."""
    if not given:
        raise InputError("no GPU fraction was given; name at least one, for instance 0.25")
    for fraction in given:
        check_fraction(fraction)
    return list(dict.fromkeys(float(fraction) for fraction in given))
