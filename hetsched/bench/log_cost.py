"""What a run log costs a layer: steps with and without it by lot, in one process, on one attached model.

Times are the calling thread's processor seconds in the engine,
the emulated machine's own apart; a layer's time is what it takes on the emulated clock. Making lines of what was
recorded, which happens between requests, is told apart.

Shapes: C calls of expert modules.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from .hollow import hollow_model, let_go, timing_only
from .overhead import machine_facts

SCHEMA = "hetsched-bench-log/1"
STEPS_BEFORE = 8


class InTurns:
    """Switches an attachment's log on and off between steps, and times the engine's calls of either kind.

    By lot, for some of what an engine does it does in every other step.
    """

    def __init__(self, handle: Any, seed: int) -> None:
        self.seconds_C: tuple[list[float], list[float]] = ([], [])  # without, with
        self._engine, self._log, self._step = handle.engine, handle.run_log, 0
        self._draw, self._is_on = random.Random(seed), False
        self._forward = self._engine.forward
        self._engine.forward = self._timed

    def next_step(self, *_: Any) -> None:
        """A forward pass begins."""
        self._step += 1
        self._is_on = self._draw.random() < 0.5
        self._engine.scheduler.log = self._log if self._is_on else None

    def _timed(self, work: Any) -> Any:
        accelerator = self._engine.accelerator
        apart_s, begin_s = accelerator.apart_s, time.thread_time()
        out = self._forward(work)
        took_s = time.thread_time() - begin_s - (accelerator.apart_s - apart_s)
        if self._step > STEPS_BEFORE:
            self.seconds_C[self._is_on].append(took_s)
        return out


def log_cost_document(model: str, hardware: str, steps: int, layers: int, seed: int) -> dict[str, Any]:
    """Measure; the document "hetsched-bench-log/1". Raises InputError for unknown names."""
    from hetsched.integrations.transformers import attach

    hollow = hollow_model(model, layers, seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder, timing_only():
        path = Path(folder) / "run.jsonl"
        with attach(hollow, hardware=hardware, gpu_memory="25%", time_scale=1.0, log=path) as handle:
            turns, log = InTurns(handle, seed), handle.run_log
            assert log is not None
            hook = hollow.register_forward_pre_hook(turns.next_step)
            ids = torch.randint(3, hollow.config.vocab_size, (1, 8))
            many = {"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": True, "pad_token_id": 0}
            hollow.generate(ids, attention_mask=torch.ones_like(ids), **many)
            hook.remove()
            recorded, begin_s = log.ring.count, time.thread_time()
            log.flush()
            lines_s = (time.thread_time() - begin_s) / max(1, recorded)
            stats = handle.stats()
            let_go(hollow)
        size = path.stat().st_size
    without_s, with_s = (statistics.median(seconds) for seconds in turns.seconds_C)
    layer_s = stats["total_s"] / stats["layers"]
    return {
        "schema": SCHEMA,
        "emulated": True,
        "machine": machine_facts(),
        "model": model,
        "hardware": hardware,
        "layers_timed": [len(seconds) for seconds in turns.seconds_C],
        "engine_s": {"without": without_s, "with": with_s},
        "layer_s": layer_s,
        "added_s": with_s - without_s,
        "added_share": (with_s - without_s) / layer_s,
        "lines_s": lines_s,
        "bytes_a_layer": size / max(1, recorded),
    }
