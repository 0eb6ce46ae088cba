"""Facts: what a reader must know of a replay, whatever the strategy."""

from __future__ import annotations

from typing import Any

from ..types import Phase
from .opened import Bench
from .steps import Steps
from .study import Study, name_of

MEASURED_NOTE = (
    "decisions are charged what they take on this host, compilation apart: each its own time, or for compiled "
    "strategies the mean of a trial run, called as a model's engine calls them"
)
NOT_WHOLE_NOTE = (
    "layers with experts are replayed: a token's output head and attention over its context are not counted, of "
    "a model whose other sizes are not known"
)
WHOLE_NOTE = (
    "layers with experts are replayed, and tokens/s, steps and bounds are theirs; a whole token has its output head, "
    "attention over the text so far and layers without experts besides, the same for every strategy, while no copy "
    "goes on"
)


def facts_of(bench: Bench) -> dict[str, Any]:
    """What was replayed and how, ready for JSON."""
    study, steps, true = bench.study, bench.steps, bench.study.true_machine
    charge = "measured" if study.decision_s is None else study.decision_s
    fitted, scored = bench.num_sequences
    return {
        "trace": bench.trace_name,
        "model": study.geometry.name,
        "fit_trace": None if study.fit_source is None else name_of(study.fit_source),
        "fit_sequences": study.fit_sequences,
        "sequences_fitted": fitted,
        "sequences_scored": scored,
        "tokens_scored": bench.scored.num_tokens,
        "tokens_emitted": int(steps.kept_S.sum()),
        "steps": steps.count,
        "phases": {name: int(count) for name, count in _phases(steps)},
        "replay": study.replay,
        "verify": study.verify,
        "decision_charge": charge,
        "host_charge": "measured" if study.host_s is None else study.host_s,
        "recalibrate": study.recalibrate,
        "true_hardware": None if true is None else true.name,
        "guard": study.is_watched,
        "solver": study.solver,
        "forecaster": study.forecaster_name,
        "notes": [
            *([steps.note] if steps.note else []),
            *([f"fitted on all of {name_of(study.fit_source)}"] if study.fit_source is not None else []),
            "the cache is carried over between sequences; no warm-up is left out",
            WHOLE_NOTE if study.subject else NOT_WHOLE_NOTE,
            MEASURED_NOTE if study.decision_s is None else f"every decision is charged {study.decision_s * 1e6:g} µs",
            *_host_notes(study),
            *([f"hardware is what is believed, {true.name} what is true"] if true else []),
            *(f"{m.name}: simulated on a profile whose figures are {m.source.value}" for m in study.machines),
        ],
    }


def _host_notes(study: Study) -> list[str]:
    """What is charged for the engine itself, and where it is from."""
    if study.host_s == 0:
        return ["the engine's own time between decisions is not charged"]
    charged = {1e6 * study.host_layer_s(m): m.reasons.get("host.layer_s", "") for m in study.machines}
    return [
        f"every layer is charged {host_us:.0f} µs for the engine itself, whatever the strategy; bounds are not"
        + (f" ({how})" if how and study.host_s is None else "")
        for host_us, how in charged.items()
    ]


def _phases(steps: Steps) -> list[tuple[str, int]]:
    return [(p.name.lower(), n) for p in Phase if (n := int((steps.phase_S == p).sum()))]
