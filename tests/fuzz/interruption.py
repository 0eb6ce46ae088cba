"""Ctrl-C and SIGTERM at random moments of every command that takes long: the right code, one line, nothing left.

Every other request comes twice. What an interrupted command leaves to be gone on with is gone on with, to the same end.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import signal
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from random import Random

from hetsched import cli

from .cases import filled
from .good_files import quiet
from .ground import REPLAY, SHORT, SMALL, Command
from .running import OUT, Ask, run

SERVED = "--max-new-tokens 2 --hardware rtx-4060-laptop-8gb --gpu-memory 25% --time-scale 1 --context 64 --parallel 1"
LONG = (
    Command(f"run --prompt 'the sea' {SHORT} --max-new-tokens 60 --model {{model}}"),
    Command(f"verify --model {{model}} {SHORT} --max-new-tokens 20"),
    Command("trace record --model {model} --prompts {prompts.txt} --max-new-tokens 40 --out {out/new.npz}"),
    Command("trace synth --layers 24 --experts 32 --top-k 4 --tokens 4000 --sequences 8 --out {out/new.npz}"),
    Command(f"simulate {REPLAY} --hardware rtx-4090 --strategy hetsched"),
    Command(f"compare {REPLAY} --hardware rtx-4090 --gpu-fraction 0.25"),
    Command("predictor train --trace {trace.npz} --epochs 40 --out {out/new.safetensors}"),
    Command("evaluate --protocol honest --hardware rtx-4090 --trace {trace.npz} --model {geometry.yaml}"),
    Command("solve --random 300"),
    Command("bench --replay --models gpt-oss-20b --layer-steps 20000"),
    Command("profile --quick --device cpu"),
    Command(f"run --prompt 'the sea' {SHORT} --max-new-tokens 60 --model {{model}} --log {{out/run.jsonl}}"),
    Command(f"simulate {REPLAY} --hardware rtx-4090 --log {{out/run.jsonl}} --learned {{out/learned.npz}}"),
    Command("plan --model {geometry.yaml} --hardware rtx-4060-laptop-8gb --trace {trace.npz}"),
    Command("report {run.jsonl} --out {out/new.html}"),
    Command("report {compare.json} --out {out/new.html}"),
    Command("explain {run.jsonl} --step 3 --layer 1"),
    Command("timeline {run.jsonl} --out {out/new.json}"),
    Command("predictor eval --predictor {predictor.safetensors} --trace {trace.npz}"),
    Command(f"serve --model {{model}} --port 0 --grace 1 {SERVED}"),
    Command("model build --out {out/demo}"),
)
LISTENING_S = 0.05  # from when on a new process hears signals; before, the system ends it
MOST_S = 10.0  # of a command that takes longer, its beginning is interrupted
AGAIN_S = 0.3  # within which a second request follows a first
ITSELF = ""
LEFT = {  # beginnings of commands that may leave something, and what has to end well with it
    "predictor train": ITSELF,
    "trace record": ITSELF,
    "run --log": "report {out/run.jsonl} --out {out/run.html}",
    "simulate --log": "report {out/run.jsonl} --out {out/run.html}",
}
READABLE = (0, 2)  # a log of no layer makes no report


def soak(place: Path, times: int, only: str = "") -> int:
    """Interrupt each command so often, and print what came of it; exit code 1 where a promise was broken."""
    _prepare(place / "ground")
    bad = 0
    for command in (command for command in LONG if command.line.startswith(only)):
        found, random = Counter[str](), Random(command.line)
        takes_s, whole = _alone(command, place)
        for i in range(times):
            again_s = random.uniform(0, AGAIN_S) if i % 4 >= 2 else None
            number = signal.SIGTERM if i % 2 else signal.SIGINT
            ask = Ask(random.uniform(LISTENING_S, takes_s), number, again_s)
            verdict = run(filled(command.words, _laid(place)), place / "case", ask)
            faults = [fault for fault in verdict.faults if not (_left(command) is not None and fault == "leftovers")]
            if verdict.code and not faults:
                faults = _followed(command, place, whole)
            found.update(faults or [f"code {verdict.code}"])
            if faults:
                bad += 1
                print(f"{command.line}: {faults} after {ask}: {verdict.said[-400:]!r}", flush=True)
        print(f"{' '.join(command.words[:2])}: {times} times within {takes_s:.1f} s: {dict(found)}", flush=True)
    return int(bad > 0)


def _prepare(ground: Path) -> None:
    """What only these commands read: a run log, and a comparison."""
    replay = " ".join(filled(shlex.split(REPLAY), ground))
    quiet(f"simulate {replay} --hardware rtx-4090 --log {ground / 'run.jsonl'}")
    with (ground / "compare.json").open("w") as file, redirect_stdout(file):
        cli.main(shlex.split(f"compare {replay} --hardware rtx-4090 {SMALL} --json"))


def _left(command: Command) -> str | None:
    """What has to end well after the command was interrupted; None where nothing may be left."""
    options = {word for word in command.words if word.startswith("--")}
    for beginning, then in LEFT.items():
        verb, _, rest = beginning.partition(" ")
        if command.words[0] == verb and (rest in options or command.words[1] == rest):
            return then
    return None


def _followed(command: Command, place: Path, whole: dict[str, str]) -> list[str]:
    """What goes wrong with what an interrupted command left; `whole`: what one makes that is left alone."""
    then = _left(command)
    if then is None:
        return []
    if then != ITSELF:
        if not (place / "case" / OUT / "run.jsonl").exists():
            return []
        verdict = run(filled(shlex.split(then), place / "case"), place / "case", keep=True)
        return [] if verdict.code in READABLE and "traceback" not in verdict.faults else ["left unreadable"]
    verdict = run(filled(command.words, place / "case"), place / "case", keep=True)
    made = _made(place / "case" / OUT)
    return [] if not verdict.code and made == whole else [f"not gone on with: {verdict}"]


def _made(out: Path) -> dict[str, str]:
    """Every file in a folder, with a digest of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}


def _laid(place: Path) -> Path:
    folder = place / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "ground", folder)
    return folder


def _alone(command: Command, place: Path) -> tuple[float, dict[str, str]]:
    """What the command takes when it is left alone, at most MOST_S, and what it makes."""
    begin_s = time.monotonic()
    verdict = run(filled(command.words, _laid(place)), place / "case", Ask(MOST_S))
    assert verdict.code in (0, 1, 128 + signal.SIGINT), f"{command.line}: {verdict}"
    return time.monotonic() - begin_s, _made(place / "case" / OUT)
