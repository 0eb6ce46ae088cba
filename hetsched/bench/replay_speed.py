"""`hetsched bench --replay-speed`: layer-steps a second that strategies replay, on drawn routing of a model's shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..geometry import MoEGeometry
from ..machine import gallery
from ..replay.simulator import ConstantClock, compiled_parts, simulate
from ..replay.steps import steps_of
from ..scheduler import Scheduler
from ..traces.synth import SynthParams, generate
from ..traces.trace import RoutingTrace
from ..types import Phase
from .overhead import machine_facts

SCHEMA = "hetsched-replay-speed/1"
SHARE = 0.25  # of all experts that fit on the GPU
CHARGE_S = 3e-5  # of every decision, so that a whole replay is compiled
REPEATS = 3
SKEW, LOCALITY, DRIFT = 1.1, 0.25, 0.45  # as `trace synth` has them
MEANING = {
    "layer_steps_per_s": f"layers of decoded tokens a second of this host, the median of {REPEATS} replays in turn",
    "spread": "slowest and fastest of them, over the median",
    "compiled": "whether the replay is one compiled loop",
}


@dataclass(frozen=True)
class ReplaySettings:
    """What is replayed: each strategy on each model's shape, `layer_steps` of it, on a gallery machine."""

    models: Sequence[str]
    hardware: str
    strategies: Sequence[str]
    layer_steps: int = 100_000
    seed: int = 0


def replay_document(settings: ReplaySettings, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Time every replay; the document of `hetsched bench --replay-speed --json`."""
    cases = [(gallery.model(model), strategy) for model in settings.models for strategy in settings.strategies]
    rows = []
    for done, (geometry, strategy) in enumerate(cases):
        rows.append(_row(settings, geometry, strategy))
        if progress is not None:
            progress(done + 1, len(cases))
    return {
        "schema": SCHEMA,
        "meaning": MEANING,
        "machine": machine_facts(),
        "hardware": settings.hardware,
        "gpu_fraction": SHARE,
        "seed": settings.seed,
        "rows": rows,
    }


def _row(settings: ReplaySettings, geometry: MoEGeometry, strategy: str) -> dict[str, Any]:
    tokens = max(1, settings.layer_steps // geometry.num_layers)
    trace = _routing(geometry, tokens, settings.seed)
    _replayed(settings, geometry, strategy, _routing(geometry, 2, settings.seed))  # compiles, or reads from disk
    took = [_replayed(settings, geometry, strategy, trace) for _ in range(REPEATS)]
    speeds = np.array([tokens * geometry.num_layers / seconds for seconds, _ in took])
    middle = float(np.median(speeds))
    return {
        "model": geometry.name,
        "layers": geometry.num_layers,
        "experts": geometry.num_experts,
        "top_k": geometry.top_k,
        "strategy": strategy,
        "layer_steps_per_s": middle,
        "spread": [float(speeds.min() / middle), float(speeds.max() / middle)],
        "compiled": took[0][1],
    }


def _routing(geometry: MoEGeometry, tokens: int, seed: int) -> RoutingTrace:
    layers = geometry.num_layers
    shape = layers, geometry.num_experts, geometry.top_k, tokens, 1
    params = SynthParams(*shape, (SKEW,) * layers, (LOCALITY,) * layers, (DRIFT,) * layers)
    experts_TLK = np.concatenate([chunk_CLK for _, chunk_CLK in generate(params, seed)])
    phase_T = np.full(tokens, int(Phase.DECODE), np.uint8)
    return RoutingTrace(experts_TLK, np.zeros(tokens, np.int32), phase_T, geometry.num_experts)


def _replayed(
    settings: ReplaySettings, geometry: MoEGeometry, strategy: str, trace: RoutingTrace
) -> tuple[float, bool]:
    """Wall seconds of one replay, and whether it is one compiled loop."""
    machine, gpu_bytes = gallery.machine(settings.hardware), int(SHARE * geometry.total_experts) * geometry.expert_bytes
    scheduler = Scheduler(geometry, machine, gpu_bytes, policy=strategy, clock=ConstantClock(CHARGE_S))
    whole = compiled_parts(scheduler) is not None
    begin_s = time.perf_counter()
    simulate(trace, steps_of(trace), scheduler)
    return time.perf_counter() - begin_s, whole
