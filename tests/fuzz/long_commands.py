"""Commands that take long, to be interrupted: as short as they can be and still pass all that they do."""

from __future__ import annotations

import shlex
from contextlib import redirect_stdout
from pathlib import Path

from hetsched import cli

from .cases import filled
from .good_files import quiet
from .ground import REPLAY, SMALL, Command

HERE = "--hardware rtx-4060-laptop-8gb --gpu-memory 25% --time-scale 1"
RUN = f"run --prompt 'the sea' {HERE} --model {{model}} --max-new-tokens 20"
TABLES = "--trace {trace.npz} --model {geometry.yaml}"
SOME = "--strategies hetsched,on-demand-lru,layer-split --gpu-fraction 0.25"
RUN_LOG, COMPARISON = "run.jsonl", "compare.json"

LONG = (
    Command(RUN),
    Command(f"verify --model {{model}} {HERE} --max-new-tokens 6"),
    Command("trace record --model {model} --prompts {prompts.txt} --max-new-tokens 20 --out {out/new.npz}"),
    Command("trace synth --layers 24 --experts 32 --top-k 4 --tokens 4000 --sequences 8 --out {out/new.npz}"),
    Command("trace import {long.csv} --num-experts 8 --out {out/new.npz}"),
    Command(f"simulate {REPLAY} --hardware rtx-4090 --strategy hetsched"),
    Command(f"compare {REPLAY} --hardware rtx-4090 {SOME}"),
    Command("predictor train --trace {trace.npz} --epochs 40 --out {out/new.safetensors}"),
    Command(f"evaluate --protocol honest --hardware rtx-4090 {TABLES} {SOME} --max-tokens 40"),
    Command("solve --random 10"),
    Command("bench --replay --models gpt-oss-20b --layer-steps 2000"),
    Command("profile --quick --device cpu --geometry hidden=64,ffn=64"),
    Command(f"{RUN} --log {{out/{RUN_LOG}}}"),
    Command(f"simulate {REPLAY} --hardware rtx-4090 --log {{out/{RUN_LOG}}} --learned {{out/learned.npz}}"),
    Command("plan --model {geometry.yaml} --hardware rtx-4060-laptop-8gb --trace {trace.npz}"),
    Command(f"report {{{RUN_LOG}}} --out {{out/new.html}}"),
    Command(f"report {{{COMPARISON}}} --out {{out/new.html}}"),
    Command(f"explain {{{RUN_LOG}}} --step 3 --layer 1"),
    Command(f"timeline {{{RUN_LOG}}} --out {{out/new.json}}"),
    Command("predictor eval --predictor {predictor.safetensors} --trace {trace.npz}"),
    Command(f"serve --model {{model}} --port 0 --grace 1 {HERE} --max-new-tokens 2 --context 64 --parallel 1"),
    Command("model build --out {out/demo}"),
    Command("demo"),
    Command("analyse experts --model {model} --prompts-a {prompts.txt} --prompts-b {more.jsonl}"),
)
ITSELF = ""
LEFT = {  # beginnings of commands that may leave something, and what has to end well with it
    "predictor train": ITSELF,
    "trace record": ITSELF,
    "run --log": f"report {{out/{RUN_LOG}}} --out {{out/run.html}}",
    "simulate --log": f"report {{out/{RUN_LOG}}} --out {{out/run.html}}",
}


def prepare(ground: Path) -> None:
    """What only these commands read: a run log, a comparison, and rows of many tokens."""
    replay = " ".join(filled(shlex.split(REPLAY), ground))
    quiet(f"simulate {replay} --hardware rtx-4090 --log {ground / RUN_LOG}")
    with (ground / COMPARISON).open("w") as file, redirect_stdout(file):
        cli.main(shlex.split(f"compare {replay} --hardware rtx-4090 {SMALL} --json"))
    rows = (f"{layer},{token},{token % 8},{7 - token % 8}" for token in range(3000) for layer in range(4))
    (ground / "long.csv").write_text("\n".join(["layer,token,expert_0,expert_1", *rows, ""]))


def left_by(command: Command) -> str | None:
    """What has to end well after the command was interrupted; None where nothing may be left."""
    options = {word for word in command.words if word.startswith("--")}
    for beginning, then in LEFT.items():
        verb, _, rest = beginning.partition(" ")
        if command.words[0] == verb and (rest in options or command.words[1] == rest):
            return then
    return None
