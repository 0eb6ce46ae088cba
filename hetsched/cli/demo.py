"""`hetsched demo`: a real model writes real text on an emulated machine, then five strategies at equal bytes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.progress import track

from .attaching import DEMO, add_machine_options, at_least_one, encode, load_model, machine_options
from .run import generate

SCHEMA = "hetsched-demo/1"
PROMPT = "Write a short story about a lighthouse keeper who finds a map."
CALIBRATION = "Explain how to bake bread at home, step by step."
STRATEGIES = ("cpu-only", "layer-split", "on-demand-lru", "static-frequency", "hetsched")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("demo", help="see it work: text, then a table of strategies", description=__doc__)
    parser.add_argument("--prompt", default=PROMPT, metavar="TEXT", help="(default: %(default)r)")
    parser.add_argument("--max-new-tokens", type=at_least_one, default=80, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--compare-tokens", type=at_least_one, default=40, metavar="N", help="per strategy (default: %(default)s)"
    )
    add_machine_options(parser, gpu_memory="25%", time_scale=4.0)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run, hardware="rtx-4060-laptop-8gb", stand_in_for="gpt-oss-20b")


def run(args: argparse.Namespace) -> int:
    """Show the machine, stream the text, compare the strategies."""
    from hetsched import attach
    from hetsched.plugins import load
    from hetsched.policy import asks_solver
    from hetsched.report.demo_view import hardware_view, notes, strategy_table
    from hetsched.scheduler import DEFAULT_SOLVER

    console = Console(quiet=args.json)
    model, tokenizer = load_model(DEMO)
    ids = encode(tokenizer, args.prompt)
    options = machine_options(args)
    with attach(model, **options) as handle:
        console.print(hardware_view(handle))
        console.rule(f"[bold]{args.prompt}", align="left")
        text, _ = generate(model, tokenizer, ids, args.max_new_tokens, stream=not args.json)
        stats = handle.stats()
    console.rule(f"{stats['tokens_per_s']:.1f} tokens/s emulated", align="right", style="dim")
    frequency_LE = _calibrate(model, tokenizer, options)
    rows = []
    shown = STRATEGIES if args.json else track(STRATEGIES, "Comparing strategies", console=console, transient=True)
    for policy in shown:
        solver = options["solver"] if asks_solver(load("hetsched.policies", policy)) else DEFAULT_SOLVER
        own = {**options, "policy": policy, "solver": solver}
        with attach(model, **own, frequency_LE=frequency_LE) as handle:
            generate(model, tokenizer, ids, args.compare_tokens, stream=False)
            rows.append(handle.stats())
    if args.json:
        print(json.dumps({"schema": SCHEMA, "prompt": args.prompt, "text": text, "stats": stats, "rows": rows}))
    else:
        console.print(strategy_table(rows), notes(rows[-1]))
    return 0


def _calibrate(model: Any, tokenizer: Any, options: dict[str, Any]) -> Any:
    """Tokens per expert [L, E] on another text than the one compared."""
    from hetsched import attach
    from hetsched.scheduler import DEFAULT_SOLVER

    with attach(model, **{**options, "policy": "cpu-only", "solver": DEFAULT_SOLVER, "time_scale": 1.0}) as handle:
        generate(model, tokenizer, encode(tokenizer, CALIBRATION), 32, stream=False)
        return handle.scheduler.tokens_LE.astype(float)
