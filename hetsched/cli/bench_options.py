"""Options of `hetsched bench`: which benchmark takes each of them, and what it is there where nobody says.

One table, from which come the texts of --help, the defaults, and the refusal of what a benchmark would ignore.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError
from ..geometry import MAX_LAYERS
from .option_types import at_least_one, names_list, non_empty_text, seed, whole
from .paths import PlotFile

MACHINE = ["rtx-4060-laptop-8gb"]
STRATEGIES = ["hetsched", "static-frequency", "on-demand-lru"]
MODEL, OVERHEAD, LOG, FAULTS, GUARD, REPLAY, CPU = (
    "--model",
    "--engine-overhead",
    "--log-cost",
    "--faults",
    "--guard",
    "--replay-speed",
    "--cpu-only",
)
# What each option is with each benchmark that takes it, unless it is given.
TAKES: dict[str, dict[str, Any]] = {
    "prompt_tokens": {MODEL: 512},
    "tokens": {MODEL: 128, OVERHEAD: 64, LOG: 200},
    "repetitions": {MODEL: 5},
    "strategies": {MODEL: STRATEGIES, REPLAY: STRATEGIES},
    "trust_remote_code": {MODEL: False},
    "markdown": {MODEL: False},
    "models": {
        OVERHEAD: ["demo", "qwen3-30b-a3b"],
        LOG: ["qwen3-30b-a3b"],
        GUARD: ["gpt-oss-20b"],
        REPLAY: ["gpt-oss-20b", "qwen3-30b-a3b"],
    },
    "hardware": {MODEL: MACHINE, OVERHEAD: MACHINE, LOG: MACHINE, GUARD: MACHINE, REPLAY: MACHINE},
    "gpu_memory": {MODEL: "25%", OVERHEAD: "25%"},
    "policy": {OVERHEAD: "hetsched"},
    "forecaster": {OVERHEAD: None},
    "layers": {OVERHEAD: 4, LOG: 4},
    "demo_as": {OVERHEAD: "gpt-oss-20b"},
    "decision": {OVERHEAD: "measured"},
    "plot": {OVERHEAD: None},
    "steps": {FAULTS: 500, GUARD: 500},
    "layer_steps": {REPLAY: 100_000},
    "emulated": {GUARD: False},
    "seed": {MODEL: 0, OVERHEAD: 0, LOG: 0, GUARD: 0, REPLAY: 0},
}


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """All of them, and --json. None: not given."""

    def add(*names: str, text: str, **more: Any) -> None:
        parser.add_argument(*names, help=f"{text} ({_usual(names[-1])})", **more)

    several, many = {"type": names_list, "metavar": "A[,B]"}, {"type": at_least_one, "metavar": "N"}
    add("-p", "--prompt-tokens", text="tokens of the prompt", **many)
    add("-n", "--tokens", text="tokens decoded, or decode steps scored in each of three passes", **many)
    add("-r", "--repetitions", text="times that everything is run, after one to warm up", **many)
    add("--strategies", text="which; on a CPU there is no choice", **several)
    text = "run Python code that comes with the checkpoint"
    add("--trust-remote-code", text=text, action="store_true", default=None)
    add("--models", text="'demo', and gallery models of which a few layers are made without numbers", **several)
    add("--hardware", text="machines to emulate, one but with --engine-overhead; or 'cpu' with --model", **several)
    text, name = "GPU memory for experts: 8GiB, 512MB, or 25%% of them", {"type": non_empty_text, "metavar": "NAME"}
    add("--gpu-memory", text=text, type=non_empty_text, metavar="SIZE")
    add("--policy", text="strategy", **name)
    add("--forecaster", text="of a strategy that asks one, instead of its own", **name)
    add("--layers", text="layers of models made without numbers", type=whole(1, MAX_LAYERS), metavar="N")
    add("--demo-as", text="gallery model whose seconds the demo model's layers take; '' for its own", metavar="MODEL")
    text = "charge each decision what it takes here, or a constant, for reproducible steps"
    add("--decision", text=text, metavar="measured|SECONDS")
    text = "draw where the engine's own time goes into FILE (.png, .svg or .pdf)"
    add("--plot", text=text, action=PlotFile, metavar="FILE")
    add("--steps", text="decode steps under all faults at random, or of each case", **many)
    add("--layer-steps", text="layers of tokens in each replay", **many)
    add("--emulated", text="some cases in an engine too", action="store_true", default=None)
    add("--seed", text="of what is drawn", type=seed, metavar="N")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document on standard output")
    text = f"tables in Markdown ({_usual('--markdown')})"
    how.add_argument("--markdown", action="store_true", default=None, help=text)


def settle(args: argparse.Namespace, benchmark: str) -> None:
    """Set what was not given. Raises InputError for an option that the benchmark would ignore."""
    for name, usual in TAKES.items():
        if getattr(args, name) is None:
            setattr(args, name, usual.get(benchmark))
        elif benchmark not in usual:
            raise InputError(f"--{name.replace('_', '-')} belongs to {' and '.join(usual)}; drop it")


def only(names: list[str], what: str, option: str) -> str:
    """The one of these names. Raises InputError for several."""
    if len(names) != 1:
        raise InputError(f"this benchmark takes one {what}, not {len(names)}; name one with {option}")
    return names[0]


def _usual(option: str) -> str:
    """For --help: the benchmarks that take an option, each with what it is by default."""
    said: dict[str, list[str]] = {}
    for benchmark, value in TAKES[option.strip("-").replace("-", "_")].items():
        shown = ",".join(value) if isinstance(value, list) else str(value).replace("%", "%%")
        said.setdefault("" if value is None or value is False else shown, []).append(benchmark)
    return "; ".join(f"{', '.join(names)}{value and f': {value}'}" for value, names in said.items())
