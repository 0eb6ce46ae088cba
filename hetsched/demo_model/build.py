"""The build: the stages from the dense model to the saved checkpoint, in order."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hetsched.demo_model.arithmetic import fast_dtype, products_in
from hetsched.demo_model.calibration import SEED, Calibration, Sizes, gather
from hetsched.demo_model.card import card
from hetsched.demo_model.convert import Streams, convert
from hetsched.demo_model.dense import gguf_path, load_dense
from hetsched.demo_model.export import to_qwen2_moe
from hetsched.demo_model.heal import heal
from hetsched.demo_model.perplexity import model_perplexity, stream_perplexity
from hetsched.demo_model.progress import Stages
from hetsched.demo_model.split_ffn import SplitShape
from hetsched.demo_model.store import publish, require_free
from hetsched.machine.demo_geometry import RECIPE_VERSION

SECONDS_PER_HEAL_STEP = 2.2  # on two cores, as are the shares below: they only space the progress bar
SHARES = {"load": 12.0, "sample": 60.0, "convert": 110.0, "measure": 15.0, "save": 2.0}
# Where bfloat16 is not fast, all takes three times as long, so there is less of it.
FEWER = Sizes(chat_fit=64, prose_fit=16)
FEWER_STEPS = 0.5  # of those asked for


def build(out: Path, *, heal_steps: int, progress: bool) -> dict[str, float]:
    """Report of a build that has written the demo checkpoint to `out`; see `hetsched.demo_model.build_demo_model`."""
    require_free(out)
    source = gguf_path()
    shape = SplitShape()
    dtype = fast_dtype()
    sizes, steps = (Sizes(), heal_steps) if dtype is torch.bfloat16 else (FEWER, math.ceil(heal_steps * FEWER_STEPS))
    shares = {**SHARES, "heal": steps * SECONDS_PER_HEAL_STEP}
    with (
        _reproducible(),
        _quiet(),
        products_in(dtype),
        Stages(shares, title="demo model", shown=progress) as stages,
    ):
        with stages.stage("load", "reading the dense model"):
            dense, tokenizer = load_dense(source)
        with stages.stage("sample", "letting it write the text to fit on") as tick:
            calibration = gather(dense, tokenizer, tick, sizes, dtype)
        with stages.stage("convert", "splitting its layers into experts") as tick:
            sparse, streams = convert(dense, calibration, shape, tick)
        with stages.stage("heal", "distilling the dense model into them") as tick:
            heal(dense, sparse, calibration, streams.dense_NSH, steps, tick, dtype)
        with stages.stage("measure", "measuring perplexity"):
            model = to_qwen2_moe(sparse, shape).to(torch.bfloat16)
            report = measure(dense, model, calibration, streams)
        with stages.stage("save", "writing the checkpoint"):
            config = model.config
            text = card(
                report,
                shape,
                layers=config.num_hidden_layers,
                ffn=config.intermediate_size,
                heal_steps=steps,
                version=RECIPE_VERSION,
            )
            publish(out, lambda folder: save(folder, model, tokenizer, text))
    return report | {f"seconds_{name}": seconds for name, seconds in stages.seconds.items()}


def measure(dense: Any, model: Any, calibration: Calibration, streams: Streams) -> dict[str, float]:
    """Perplexities `ppl_{prose,own}_{dense,converted,healed}` on the rows held out.

    Dense and converted come from their residual streams; the healed one is that of `model` with its weights as saved,
    computed in float32 as bfloat16 is slow on most CPUs.
    """
    saved = model.to(torch.float32)
    report: dict[str, float] = {}
    for name, rows in (("prose", calibration.prose), ("own", calibration.own)):
        tokens_NS = calibration.tokens_NS[rows]
        report[f"ppl_{name}_dense"] = stream_perplexity(dense, tokens_NS, streams.dense_NSH[rows])
        # Healing trains the last norm too, so the converted stream goes through the dense model's, which it had.
        report[f"ppl_{name}_converted"] = stream_perplexity(dense, tokens_NS, streams.sparse_NSH[rows])
        report[f"ppl_{name}_healed"] = model_perplexity(saved, tokens_NS)
    model.to(torch.bfloat16)
    return report


def save(folder: Path, model: Any, tokenizer: Any, text: str) -> None:
    """Write the checkpoint to `folder`: weights, config, tokenizer with chat template, and the card `text`."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(text, encoding="utf-8")


@contextmanager
def _reproducible() -> Iterator[None]:
    """Context with a fixed seed for whatever draws from torch's global generator; the caller's is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Context in which transformers shows no bars and no advice of its own."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
