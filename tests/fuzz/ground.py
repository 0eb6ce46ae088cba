"""Commands that work on the good files, and which of these each of them reads."""

from __future__ import annotations

import shlex
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from .good_files import (
    BEGUN,
    COMPARED,
    LEARNED,
    LOG,
    MACHINE_FILE,
    MEASURED,
    MODEL_FILE,
    PREDICTOR,
    RECORD,
    REPLAY,
    SHORT,
    SMALL,
    TRACE,
)


class Command(NamedTuple):
    """A command line that works; `{name}` stands for a file of the ground, `{out/name}` for a place that is free.

    `reads`: files of the ground that it reads, each of which may be damaged, by their paths in the ground. `code`: how
    it ends; 2 where it wants a package that is not installed.
    """

    line: str
    reads: tuple[str, ...] = ()
    code: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """As a shell would split it."""
        return _split(self.line)


@cache
def _split(line: str) -> tuple[str, ...]:
    return tuple(shlex.split(line))


FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
CHECKPOINT = tuple(f"model/{name}" for name in FILES)
SHARDED = ("sharded/config.json", "sharded/model.safetensors.index.json", "sharded/model-00001-of-00007.safetensors")
RUN = f"run --prompt 'the sea' {SHORT}"
EVALUATE = "evaluate --trace {trace.npz} --model {geometry.yaml} --forecaster transition --max-tokens 20"

COMMANDS = (
    Command(f"{RUN} --model {{model}}", CHECKPOINT),
    Command(f"{RUN} --model {{sharded}}", SHARDED),
    Command(f"{RUN} --model {{model.gguf}} --json", ("model.gguf",)),
    Command(f"{RUN} --model {{chat}}", ("chat/chat_template.jinja", "chat/tokenizer_config.json")),
    Command(f"{RUN} --model {{chat}} --chat --system was", ("chat/chat_template.jinja",)),
    Command(f"{RUN} --model {{model}} --steer {{steer.yaml}} --json", ("steer.yaml",)),
    Command(f"{RUN} --model {{model}} --learned {{{LEARNED}}}", (LEARNED,)),
    Command(
        f"{RUN} --model {{model}} --speculate 1 --draft {{draft}}",
        tuple(f"draft/{name}" for name in FILES),
    ),
    Command(
        "run --prompt sea --max-new-tokens 2 --hardware {machine.yaml} --time-scale 1 --model {model}", (MACHINE_FILE,)
    ),
    Command(f"{RUN} --model {{pickled}}", ("pickled/pytorch_model.bin", "pickled/config.json")),
    Command(
        f"{RUN} --model {{adapter}}",
        ("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        0 if find_spec("peft") else 2,
    ),
    Command("run --prompt sea --max-new-tokens 2 --hardware cpu --model {model}", (MEASURED,)),
    Command(f"verify --model {{model}} {SHORT}", CHECKPOINT),
    Command("analyse experts --model {model} --prompts-a {prompts.txt} --prompts-b {more.jsonl}", ("more.jsonl",)),
    Command("profiles list", (MEASURED,)),
    Command("profiles show {machine.yaml}", (MACHINE_FILE,)),
    Command("profiles show {geometry.yaml} --json", (MODEL_FILE,)),
    Command("profiles show {model} --format mxfp4,q8_0", ("model/config.json",)),
    Command("profiles show {model.gguf} --format q8_0", ("model.gguf",)),
    Command("profiles validate {machine.yaml}", (MACHINE_FILE,)),
    Command("profiles diff {machine.yaml} rtx-4060-laptop-8gb", (MACHINE_FILE,)),
    Command("solve --random 1 --json"),
    Command("trace info {trace.npz}", (TRACE,)),
    Command("trace split {trace.npz} --at 0.5 --out {out/a.npz} {out/b.npz}", (TRACE,)),
    Command("trace concat {trace.npz} {fit.npz} --out {out/new.npz}", ("fit.npz",)),
    Command("trace synth --like {trace.npz} --out {out/new.npz}", (TRACE,)),
    Command("trace import {log.csv} --num-experts 8 --out {out/new.npz}", ("log.csv",)),
    Command("trace import {log.jsonl} --num-experts 8 --out {out/new.npz}", ("log.jsonl",)),
    Command(f"{RECORD} --out {{out/new.npz}}", ("prompts.txt", *CHECKPOINT)),
    Command(
        f"{RECORD} --out {{out/{BEGUN}}}",
        tuple(
            f"out/{BEGUN}.partial/{name}" for name in ("journal.json", "journal.json", "lock", "experts", "sequence")
        ),
    ),
    Command(f"simulate {REPLAY} --hardware rtx-4090 --strategy static-frequency", (TRACE, MODEL_FILE)),
    Command(f"simulate {REPLAY} --hardware {{machine.yaml}} --strategy layer-split --json", (MACHINE_FILE,)),
    Command(
        f"compare {REPLAY} --hardware {{machine.yaml}} {SMALL} --fit-trace {{fit.npz}} --json",
        (TRACE, MODEL_FILE, MACHINE_FILE, "fit.npz"),
    ),
    Command(f"{EVALUATE} --protocol published", (TRACE, MODEL_FILE)),
    Command(
        f"{EVALUATE} --protocol honest --hardware {{machine.yaml}} --decision 3e-5 --strategies on-demand-lru --json",
        (TRACE, MODEL_FILE, MACHINE_FILE),
    ),
    Command("predictor info {predictor.safetensors}", (PREDICTOR,)),
    Command("predictor eval --predictor {predictor.safetensors} --trace {trace.npz}", (PREDICTOR, TRACE)),
    Command("report {run.jsonl} --out {out/new.html}", (LOG,)),
    Command("report {compare.json} --out {out/new.html}", (COMPARED,)),
    Command("explain {run.jsonl} --step 3 --layer 1", (LOG,)),
    Command("timeline {run.jsonl} --out {out/new.json}", (LOG,)),
    Command("plan --model {geometry.yaml} --hardware {machine.yaml} --json", (MODEL_FILE, MACHINE_FILE)),
    Command("plan --model {model.gguf} --hardware rtx-3090", ("model.gguf",)),
    Command("doctor --json", (MEASURED,)),
)
