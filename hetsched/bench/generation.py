"""`hetsched bench --model`: a checkpoint's prefill and decoding under strategies, tokens a second with their spread.

Shapes: T tokens, R repetitions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..integrations.transformers import attach

SCHEMA = "hetsched-bench-model/1"
Progress = Callable[[int, int], None]


class ModelSettings(NamedTuple):
    """What is measured: a prompt of drawn token ids, then greedy decoding behind it, so many times a strategy."""

    strategies: Sequence[str]
    prompt_tokens: int
    tokens: int
    repetitions: int
    seed: int = 0


class Test(NamedTuple):
    """One line as llama-bench has it: "pp512" or "tg128", mean and standard deviation over the repetitions."""

    strategy: str
    test: str
    tokens_per_s: float
    std: float
    hit_rate: float
    lossless: bool


def model_document(
    model: Any, name: str, options: Mapping[str, Any], settings: ModelSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure every strategy on a loaded model, one after the other; the document of `bench --model --json`.

    `options`: attach()'s. Seconds are emulated on an emulated machine, decisions and the engine's own time among them,
    else the wall's.
    """
    rows, facts = list[Test](), dict[str, Any]()
    runs = len(settings.strategies) * (settings.repetitions + 1)
    for number, strategy in enumerate(settings.strategies):
        asked = {} if str(options.get("hardware")).lower() == "cpu" else {"policy": strategy}
        with attach(model, **{**options, **asked}) as handle:
            rates_R = []
            for repetition in range(settings.repetitions + 1):  # the first warms up
                rates_R.append(_rates(model, handle, settings))
                if progress is not None:
                    progress(number * (settings.repetitions + 1) + repetition + 1, runs)
            stats, dtype = handle.stats(), handle.geometry.dtype
        named = (f"pp{settings.prompt_tokens}", f"tg{settings.tokens}")
        for test, seen_R in zip(named, zip(*rates_R[1:], strict=True), strict=True):
            spread = statistics.stdev(seen_R) if len(seen_R) > 1 else 0.0
            rows.append(Test(strategy, test, statistics.mean(seen_R), spread, stats["hit_rate"], stats["lossless"]))
        facts = {key: stats[key] for key in ("hardware", "emulated", "gpu_expert_bytes")}
        facts |= {"format": dtype, "weights_bytes": stats["expert_bytes_total"]}
    return {"schema": SCHEMA, "model": name, **facts, **settings._asdict(), "rows": [row._asdict() for row in rows]}


def _rates(model: Any, handle: Any, settings: ModelSettings) -> tuple[float, float]:
    """Tokens a second of one prompt, and of decoding behind it."""
    random = torch.Generator().manual_seed(settings.seed)
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(0, size, (1, settings.prompt_tokens), generator=random).to(model.device)
    with torch.inference_mode():
        begin_s = _now_s(handle)
        out = model(ids, use_cache=True, logits_to_keep=1)
        middle_s = _now_s(handle)
        for _ in range(settings.tokens):
            ids = out.logits[:, -1:].argmax(-1)
            out = model(ids, past_key_values=out.past_key_values, use_cache=True)
        end_s = _now_s(handle)
    return settings.prompt_tokens / (middle_s - begin_s), settings.tokens / (end_s - middle_s)


def _now_s(handle: Any) -> float:
    """Seconds of all layers so far, where they are emulated; else the wall's."""
    total_s: float = handle.scheduler.stats.total_s
    return total_s if handle.engine.accelerator.emulated else time.perf_counter()
