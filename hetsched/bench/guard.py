"""`hetsched bench --guard`: hetsched against the best simple strategy, where everything speaks for the simple one.

The simple strategies are replayed on the true machine; they do not depend on what is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..machine import gallery
from ..replay.simulator import ConstantClock, simulate
from ..replay.steps import steps_of
from ..scheduler import Scheduler
from ..shadow.watchdog import Move
from .guard_cases import CHARGE_S, Case, cases, row_of

SCHEMA = "hetsched-guard/1"
SIMPLE = ("cpu-only", "static-frequency", "layer-split", "on-demand-lru", "on-demand-lru-per-layer", "layer-stream")
SHARE = 0.25  # of all experts that fit on the GPU
TARGET, EMULATED_TARGET = 1.05, 1.10
EMULATED, EMULATED_STEPS = "(emulated)", 200  # ends their cases' names; each step takes its time
MEANING = {
    "ratio": "seconds of all steps, wrong starts included, over those of the best simple strategy; target "
    f"{TARGET:g}, emulated {EMULATED_TARGET:g}",
    "switches": "times that another strategy began to decide, and the original again",
    "best_simple": "replayed on the true machine, whatever the profile says",
}


@dataclass(frozen=True)
class GuardSettings:
    """What is replayed: a gallery model's shape on a gallery machine, so many decoded tokens in each case.

    `emulated`: a subset of the cases in an engine too.
    """

    model: str
    hardware: str
    steps: int = 500
    seed: int = 0
    emulated: bool = False


def missed(row: dict[str, Any]) -> bool:
    """Whether a row is beyond its target."""
    return bool(row["ratio"] > (EMULATED_TARGET if row["case"].endswith(EMULATED) else TARGET))


def guard_document(
    settings: GuardSettings,
    progress: Callable[[int, int], None] | None = None,
    told: Callable[[str, Move], None] | None = None,
) -> dict[str, Any]:
    """Replay every case: the document of `bench --guard --json`. `told`: a case's name and each of its moves."""
    geometry, machine = gallery.model(settings.model), gallery.machine(settings.hardware)
    found, rows = list(cases(geometry, machine, settings.steps, settings.seed)), []
    for done, case in enumerate(found):
        rows.append(_row(settings, case, told))
        if progress is not None:
            progress(done + 1, len(found))
    if settings.emulated:
        from .guard_emulated import emulated_rows  # torch takes long to import

        rows += emulated_rows(min(EMULATED_STEPS, settings.steps))
    return {
        "schema": SCHEMA,
        "meaning": MEANING,
        "model": geometry.name,
        "hardware": machine.name,
        "simulated": True,
        "gpu_fraction": SHARE,
        "steps": settings.steps,
        "seed": settings.seed,
        "target": TARGET,
        "rows": rows,
    }


def _row(settings: GuardSettings, case: Case, told: Callable[[str, Move], None] | None) -> dict[str, Any]:
    simple_s = {name: replayed(settings.model, case, name)[0] for name in SIMPLE}
    own_s, scheduler = replayed(settings.model, case, "hetsched", watch=True)
    for move in scheduler.stats.moves:
        if told is not None:
            told(case.name, move)
    return row_of(case.name, simple_s, own_s, scheduler.stats.moves)


def replayed(model: str, case: Case, policy: str, watch: bool = False) -> tuple[float, Scheduler]:
    """Simulated seconds of all steps, and the scheduler that decided them."""
    geometry = gallery.model(model)
    scheduler = Scheduler(
        geometry,
        case.believed,
        int(SHARE * geometry.total_experts) * geometry.expert_bytes,
        policy=policy,
        forecaster=case.forecaster if policy == "hetsched" else None,
        history=case.history,
        frequency_LE=case.history.demand_LE(slice(0, case.history.num_tokens)).astype(float),
        clock=ConstantClock(CHARGE_S),
        watch=watch,
    )
    replay = simulate(case.trace, steps_of(case.trace), scheduler, true_hardware=case.true)
    return float(replay.step_s_S.sum()), scheduler
