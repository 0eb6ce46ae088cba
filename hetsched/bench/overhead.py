"""The engine's own time, and executed against predicted steps, of models on emulated machines.

A layer's own time is the wall time of one call of its expert module, less the accelerator's waits (where emulated time
passes, work is done and threads wake late) and less the seconds that its decisions report. Steps are sums of seconds on
the emulated clock: the rest of each layer, its decision, and its experts, as predicted by the plan and as executed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

from .overhead_case import PASSES, STEPS_BEFORE, Case
from .overhead_case import Settings as Settings
from .spans import MEANING

SCHEMA = "hetsched-bench/1"
TARGETS = {"layer_overhead_s": 150e-6, "ids_to_launch_s": 80e-6, "error": 0.05, "error_p95": 0.15}
Progress = Callable[[int, int], None]


def overhead_document(settings: Settings, progress: Progress | None = None) -> dict[str, Any]:
    """Measure every model on every machine; the document of `hetsched bench --engine-overhead --json`."""
    cases = [Case.of(model, hardware, settings) for model in settings.models for hardware in settings.hardware]
    total, done = len(cases) * PASSES * (settings.steps + STEPS_BEFORE), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    begin_s = time.perf_counter()
    rows = [case.row(tick) for case in cases]
    return {
        "schema": SCHEMA,
        "emulated": True,
        "targets": TARGETS,
        "meaning": MEANING,
        "machine": machine_facts(),
        "seed": settings.seed,
        "wall_s": time.perf_counter() - begin_s,
        "rows": rows,
    }


def machine_facts() -> dict[str, Any]:
    """Of the host that measured."""
    import torch
    import transformers

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
