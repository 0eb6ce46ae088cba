"""evaluate: forecasters judged under a protocol, on the sequences that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine import gallery
from ..machine.profile import HardwareProfile
from ..replay.facts import facts_of
from ..replay.opened import Bench
from ..replay.strategies import Strategies, strategies_of
from ..replay.study import MEASURED, Study, check_fraction, fitted_on
from ..traces.split import sequence_starts
from ..traces.trace import RoutingTrace, load_trace
from . import caching_study as study_of_caches
from . import honest as honest_protocol
from . import published as published_protocol
from .caching_study import caching_study, tables
from .forecasters import ALL, Named, forecasters_of
from .honest import honest
from .published import published
from .result import Evaluation

NOTES = {
    "published": published_protocol.NOTES,
    "honest": honest_protocol.NOTES,
    "caching-study": study_of_caches.NOTES,
}
FRACTIONS: dict[str, Sequence[float]] = {
    "published": (published_protocol.FRACTION,),
    "honest": (published_protocol.FRACTION,),
    "caching-study": study_of_caches.FRACTIONS,
}
PROTOCOLS = tuple(NOTES)
Progress = Callable[[int, int], None]


def evaluate(
    protocol: str,
    trace: str | Path | RoutingTrace,
    model: str | MoEGeometry,
    *,
    hardware: str | HardwareProfile | None = None,
    forecasters: str | Sequence[Any] | None = None,
    strategies: Strategies | None = None,
    gpu_fractions: Sequence[float] | None = None,
    dtype: str | None = None,
    fit_sequences: float | None = None,
    fit_trace: str | Path | RoutingTrace | None = None,
    max_tokens: int | None = None,
    distance: int = 1,
    decision_s: float | None = MEASURED,
    host_s: float | None = 0.0,
    progress: Progress = lambda done, of: None,
) -> Evaluation:
    """Judge forecasters on a trace under one of PROTOCOLS; they are told the first share of its sequences (None: half).

    Or `fit_trace`, another trace of the model; all of the first is then scored. A trace of one sequence is cut in it.
    `distance`: of how many layers before a layer its forecast is judged and used, 1 for the last moment.
    `forecasters`: "all" (as None; caching-study: transition) or names and objects. `strategies`, `hardware`,
    `decision_s` and `host_s` belong to "honest", as in compare. `gpu_fractions`: None for the protocol's own. Raises
    InputError for bad arguments.
    """
    is_honest = protocol == "honest"
    _refuse(protocol, distance, knows_machine=hardware is not None)
    machines = [] if hardware is None else [gallery.machine(hardware) if isinstance(hardware, str) else hardware]
    geometry = gallery.model(model, dtype) if isinstance(model, str) else model
    whole = load_trace(trace) if isinstance(trace, (str, Path)) else trace
    fitted = fitted_on(fit_sequences, fit_trace)
    study = Study(in_two(whole, fitted["fit_sequences"]), geometry, tuple(machines), max_tokens=max_tokens, **fitted)
    study = replace(study, decision_s=decision_s, host_s=host_s) if is_honest else replace(study, replay="decode")
    return _evaluated(protocol, Bench(study), trace, forecasters, strategies, gpu_fractions, distance, progress)


def _evaluated(
    protocol: str,
    bench: Bench,
    trace: str | Path | RoutingTrace,
    forecasters: str | Sequence[Any] | None,
    strategies: Strategies | None,
    gpu_fractions: Sequence[float] | None,
    distance: int,
    progress: Progress,
) -> Evaluation:
    """The evaluation of a bench that is the protocol's."""
    fractions = _fractions(FRACTIONS[protocol] if gpu_fractions is None else gpu_fractions)
    default = study_of_caches.FORECASTER if protocol == "caching-study" else ALL
    chosen = forecasters_of(default if forecasters is None else forecasters)
    if protocol == "published":  # which tells one of its own the answer
        chosen = [named for named in chosen if named.label != published_protocol.ORACLE]
    usable, left_out = _usable(chosen, bench, must_all=forecasters not in (None, ALL))
    facts = _facts(
        bench, str(trace) if isinstance(trace, (str, Path)) else bench.trace_name, protocol, left_out, distance
    )
    if protocol == "published":
        return Evaluation(protocol, list(published(bench, usable, fractions, progress, distance)), facts)
    if protocol == "honest":
        ran, machine = (
            strategies_of(honest_protocol.STRATEGIES if strategies is None else strategies),
            bench.study.machines[0],
        )
        return Evaluation(protocol, list(honest(bench, machine, ran, usable, fractions, progress, distance)), facts)
    rows = list(caching_study(bench, usable, fractions, progress, distance))
    speculation = {row.forecaster: seen for row, seen in rows if row.forecaster is not None and seen is not None}
    return Evaluation(protocol, [row for row, _ in rows], facts, tables(bench, speculation))


def _refuse(protocol: str, distance: int, *, knows_machine: bool) -> None:
    """Raise InputError for arguments that no evaluation has."""
    if distance < 1:
        raise InputError(f"the distance is {distance} layers; it must be at least 1, the layer before")
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r:.40} is not one of {', '.join(PROTOCOLS)}")
    if protocol == "honest" and not knows_machine:
        raise InputError("the honest protocol replays a machine, since copies take time; name one with hardware")


def in_two(trace: RoutingTrace, fit_sequences: float) -> RoutingTrace:
    """The trace, or, where it is one sequence, the same tokens as two sequences cut at the share that is fitted on."""
    cut = int(fit_sequences * trace.num_tokens)
    if len(sequence_starts(trace)) > 2 or not 0 < cut < trace.num_tokens:
        return trace
    sequence_T = (np.arange(trace.num_tokens) >= cut).astype(np.int32)
    meta = {name: value for name, value in trace.meta.items() if name != "sequences"}
    return replace(trace, sequence_T=sequence_T, meta=meta)


def _fractions(given: Sequence[float]) -> list[float]:
    for fraction in given:
        check_fraction(fraction)
    return list(dict.fromkeys(map(float, given)))


def _usable(chosen: Sequence[Named], bench: Bench, must_all: bool) -> tuple[list[Named], list[str]]:
    """Forecasters that start on what there is, and a line on each that does not; those named one by one must."""
    refused = {named.label: why for named in chosen if (why := _refusal(named, bench))}
    if refused and must_all:
        raise InputError(next(iter(refused.values())))
    left_out = [f"{label} is left out: {why}" for label, why in refused.items()]
    return [named for named in chosen if named.label not in refused], left_out


def _refusal(named: Named, bench: Bench) -> str:
    """Why a forecaster does not start on what there is, or nothing."""
    try:
        named.fed(bench).start(bench.study.geometry, bench.frequency_LE, bench.history)
    except InputError as error:
        return str(error)
    return ""


def _facts(bench: Bench, name: str, protocol: str, left_out: Sequence[str], distance: int) -> dict[str, Any]:
    """What a reader must know of the evaluation, ready for JSON."""
    facts: dict[str, Any] = facts_of(bench)
    replayed = facts.pop("notes")
    for unused in ("solver", "verify"):
        del facts[unused]
    fitted, scored = bench.num_sequences
    told = f"forecasters are told the first {fitted} sequences, and go on observing while they are scored on the rest"
    notes = [told if fitted else "forecasters are told nothing beforehand, and observe while they are scored"]
    if scored < 2:
        notes.append("one sequence is scored, so there are no intervals over sequences")
    if distance > 1:
        notes.append(f"forecasts of a layer are those of {distance} layers before it, not of the last moment")
    larger = int((bench.steps.end_S - bench.steps.begin_S > 1).sum())
    if larger:
        notes.append(f"forecasts of {larger:,} steps of several tokens are not judged; forecasters observe those too")
    if protocol != "honest":
        for unused in ("decision_charge", "host_charge", "phases"):
            del facts[unused]
        replayed = ["the machine is not used: copies take no time in this protocol"] if bench.study.machines else []
    return {**facts, "trace": name, "distance": distance, "notes": [*NOTES[protocol], *notes, *left_out, *replayed]}
