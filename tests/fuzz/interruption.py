"""Ctrl-C and SIGTERM at random moments of every command that takes long: the right code, one line, nothing left."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random

from .cases import filled
from .ground import REPLAY, SHORT, Command
from .running import Ask, run

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
    Command("model build --out {out/demo}"),
)
LISTENING_S = 0.05  # from when on a new process hears signals; before, the system ends it
MOST_S = 10.0  # of a command that takes longer, its beginning is interrupted
LEFT = {
    "predictor train": "what an interrupted run goes on from",
    "trace record": "what an interrupted run goes on from",
}


def soak(place: Path, times: int) -> int:
    """Interrupt each command so often, and print what came of it; exit code 1 where a promise was broken."""
    bad = 0
    for command in LONG:
        found, random = Counter[str](), Random(command.line)
        takes_s = _seconds(command, place)
        for i in range(times):
            ask = Ask(random.uniform(LISTENING_S, takes_s), signal.SIGTERM if i % 2 else signal.SIGINT)
            verdict = run(filled(command.words, _laid(place)), place / "case", ask)
            resumable = any(command.line.startswith(verb) for verb in LEFT)
            faults = [fault for fault in verdict.faults if not (resumable and fault == "leftovers")]
            found.update(faults or [f"code {verdict.code}"])
            if faults:
                bad += 1
                print(f"{command.line}: {faults} after {ask.after_s:.2f} s: {verdict.said[-400:]!r}", flush=True)
        print(f"{' '.join(command.words[:2])}: {times} times within {takes_s:.1f} s: {dict(found)}", flush=True)
    return int(bad > 0)


def _laid(place: Path) -> Path:
    folder = place / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "ground", folder)
    return folder


def _seconds(command: Command, place: Path) -> float:
    """What the command takes when it is left alone, at most MOST_S."""
    begin_s = time.monotonic()
    run(filled(command.words, _laid(place)), place / "case", Ask(MOST_S))
    return time.monotonic() - begin_s
