"""`hetsched bench --model`: a checkpoint's prefill and decoding under strategies, tokens a second with their spread.

Beside the strategies, in seconds of the wall, stands transformers' eager. Shapes: R repetitions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from ..integrations.transformers import attach

SCHEMA = "hetsched-bench-model/1"
EAGER = "transformers eager"
Progress = Callable[[int, int], None]


class ModelSettings(NamedTuple):
    """What is measured: a prompt of drawn token ids, then greedy decoding behind it, so many times a strategy."""

    strategies: Sequence[str]
    prompt_tokens: int
    tokens: int
    repetitions: int
    seed: int = 0


class Test(NamedTuple):
    """One line as llama-bench has it: "pp512" or "tg128", mean and standard deviation over the repetitions.

    `clock`: "emulated" seconds, or "measured" ones of the wall; both hold decisions and the engine's own time, which
    `decision_s_per_token` and `host_s_per_token` tell. `cpu_kernel`: what computes experts on the CPU.
    """

    strategy: str
    backend: str
    clock: str
    test: str
    tokens_per_s: float
    std: float
    samples: list[float]
    decision_s_per_token: float
    host_s_per_token: float
    hit_rate: float
    gpu_expert_bytes: int
    cpu_kernel: str
    lossless: bool


class Reading(NamedTuple):
    """A clock, and the parts of its seconds that decisions and the engine took so far."""

    now_s: float
    decision_s: float = 0.0
    host_s: float = 0.0

    def since(self, before: Reading) -> Reading:
        """What passed."""
        return Reading(*(now - then for now, then in zip(self, before, strict=True)))


def model_document(
    model: Any, name: str, options: Mapping[str, Any], settings: ModelSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure every strategy on a loaded model, one after the other; the document of `bench --model --json`.

    `options`: attach()'s. Seconds are emulated on an emulated machine, decisions and the engine's own time among them,
    else the wall's.
    """
    rows, facts = list[Test](), dict[str, Any]()
    runs, done = (len(settings.strategies) + 1) * (settings.repetitions + 1), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, runs)

    for strategy in settings.strategies:
        asked = {} if str(options.get("hardware")).lower() == "cpu" else {"policy": strategy}
        with attach(model, **{**options, **asked}) as handle:
            taken_R = _repeated(model, settings, partial(_reading, handle), tick)
            stats, geometry = handle.stats(), handle.geometry
        clock = "emulated" if stats["emulated"] else "measured"
        backend = f"{stats['accelerator']}, {stats['policy']}"
        told = {key: stats[key] for key in ("hit_rate", "gpu_expert_bytes", "cpu_kernel", "lossless")}
        rows += _tests(settings, taken_R, strategy=strategy, backend=backend, clock=clock, **told)
        host_bytes = stats["memory"]["host"]
        facts = {key: stats[key] for key in ("hardware", "emulated")}
        facts |= {"format": geometry.dtype, "params": _params(geometry), "expert_bytes": stats["expert_bytes_total"]}
        facts["weights_bytes"] = host_bytes["dense"] + stats["expert_bytes_total"]
    missing = _why_not_eager(model)
    if not missing:
        rows += _eager(model, settings, tick)
    facts |= {"threads": torch.get_num_threads(), "eager_missing": missing}
    return {"schema": SCHEMA, "model": name, **facts, **settings._asdict(), "rows": [row._asdict() for row in rows]}


def _eager(model: Any, settings: ModelSettings, tick: Callable[[], None]) -> list[Test]:
    """The same passes as transformers makes them, with no engine, where the weights lie."""
    with _computed_eagerly(model):
        taken_R = _repeated(model, settings, lambda: Reading(time.perf_counter()), tick)
    backend = f"{model.device.type}, {EAGER}"
    told = {"hit_rate": 0.0, "gpu_expert_bytes": 0, "cpu_kernel": "eager", "lossless": True}
    return _tests(settings, taken_R, strategy=EAGER, backend=backend, clock="measured", **told)


def _why_not_eager(model: Any) -> str:
    """Why transformers cannot compute this model's experts; empty where it can."""
    from ..integrations.expert_modules import expert_modules
    from ..packed.rows import layout_of

    packed = layout_of(expert_modules(model)[0]).is_packed
    return "its experts are packed, and transformers has no code for them" if packed else ""


@contextmanager
def _computed_eagerly(model: Any) -> Iterator[None]:
    before = model.config._experts_implementation
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _repeated(
    model: Any, settings: ModelSettings, read: Callable[[], Reading], tick: Callable[[], None]
) -> list[tuple[Reading, Reading]]:
    """What prompt and decoding took, each repetition; one before them warms up."""
    taken_R = []
    for _ in range(settings.repetitions + 1):
        taken_R.append(_once(model, settings, read))
        tick()
    return taken_R[1:]


def _once(model: Any, settings: ModelSettings, read: Callable[[], Reading]) -> tuple[Reading, Reading]:
    """What one prompt took, and decoding behind it."""
    random = torch.Generator().manual_seed(settings.seed)
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(0, size, (1, settings.prompt_tokens), generator=random).to(model.device)
    with torch.inference_mode():
        begin = read()
        out = model(ids, use_cache=True, logits_to_keep=1)
        middle = read()
        for _ in range(settings.tokens):
            ids = out.logits[:, -1:].argmax(-1)
            out = model(ids, past_key_values=out.past_key_values, use_cache=True)
        return middle.since(begin), read().since(middle)


def _tests(settings: ModelSettings, taken_R: Sequence[tuple[Reading, Reading]], **told: Any) -> list[Test]:
    """Two rows, one of the prompt and one of decoding."""
    made = []
    for kind, tokens, seen_R in zip(
        ("pp", "tg"), (settings.prompt_tokens, settings.tokens), zip(*taken_R, strict=True), strict=True
    ):
        samples = [tokens / took.now_s for took in seen_R]
        figures = {
            "test": f"{kind}{tokens}",
            "tokens_per_s": statistics.mean(samples),
            "std": statistics.stdev(samples) if len(samples) > 1 else 0.0,
            "samples": samples,
            "decision_s_per_token": statistics.mean(took.decision_s for took in seen_R) / tokens,
            "host_s_per_token": statistics.mean(took.host_s for took in seen_R) / tokens,
        }
        made.append(Test(**told, **figures))
    return made


def _params(geometry: Any) -> int:
    """Weights of the whole model, as its config says."""
    routed = geometry.expert_params * geometry.total_experts
    return int(routed + geometry.dense_params * geometry.num_layers + geometry.other_params)


def _reading(handle: Any) -> Reading:
    """Seconds of all layers so far, where they are emulated; else the wall's."""
    stats = handle.scheduler.stats
    now_s = stats.total_s if handle.engine.accelerator.emulated else time.perf_counter()
    return Reading(now_s, stats.decision_s, stats.host_s)
