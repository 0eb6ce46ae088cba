"""`hetsched demo`: a real model writes real text on an emulated machine, then five strategies at equal bytes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from rich.progress import track
from rich.text import Text

from hetsched.errors import InputError
from hetsched.machine.hardware import is_this_machine
from hetsched.report.documents import print_document

from .attaching import DEMO, add_machine_options, attached, check_prompt, encode, load_model, machine_options
from .generating import generate
from .option_types import at_least_one
from .sampling import DEFAULT_SEED, Sampling, seeded

SCHEMA = "hetsched-demo/1"
PROMPT = "What is a map?"
CALIBRATION = "Explain how to bake bread at home, step by step."
AGAIN = Sampling({}, DEFAULT_SEED)  # each strategy draws the same tokens
STRATEGIES = ("cpu-only", "layer-split", "on-demand-lru", "static-frequency", "hetsched")
EXAMPLES: tuple[str, ...] = (
    "hetsched demo",
    'hetsched demo --prompt "What is a map?" --max-new-tokens 40',
    "hetsched demo --hardware rtx-4090 --gpu-memory 10% --json",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("demo", help="see it work: text, then a table of strategies", description=__doc__)
    parser.add_argument("--prompt", default=PROMPT, metavar="TEXT", help="text to go on with (default: %(default)r)")
    parser.add_argument(
        "--max-new-tokens", type=at_least_one, default=96, metavar="N", help="at most (default: %(default)s)"
    )
    parser.add_argument(
        "--compare-tokens",
        type=at_least_one,
        default=40,
        metavar="N",
        help="tokens of each strategy (default: %(default)s)",
    )
    add_machine_options(
        parser, hardware="rtx-4060-laptop-8gb", gpu_memory="25%", stand_in_for="gpt-oss-20b", time_scale=4.0
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the machine, stream the text, compare the strategies."""
    from hetsched.report.demo_view import hardware_view, notes, strategy_table
    from hetsched.report.run_view import stop_line, wall_line
    from hetsched.report.tables import console as make_console

    check_prompt(args.prompt)
    if is_this_machine(args.hardware):
        raise InputError(f"--hardware {args.hardware} is this machine, and strategies are compared on an emulated one")
    console = make_console(quiet=args.json)
    options = machine_options(args)
    model, tokenizer = load_model(DEMO, options=[options])
    ids = encode(tokenizer, args.prompt)
    with attached(model, options) as handle:
        console.print(hardware_view(handle))
        console.print(Text(f"── {args.prompt}", style="bold"))
        with seeded(AGAIN, model):
            made = generate(model, tokenizer, ids, args.max_new_tokens, stream=not args.json)
        stats = handle.stats()
    wall = made.wall_figures(stats, options)
    emulated = f"── {stats['tokens_per_s']:.1f} tokens/s emulated"
    for line in (emulated, wall_line(made.tokens, wall), stop_line(made.stopped_by, args.max_new_tokens)):
        if line:
            console.print(Text(line, style="dim"))
    drawn = console.is_terminal and not args.json
    shown = track(STRATEGIES, "Comparing strategies", console=console, transient=True, disable=not drawn)
    rows = _compare(shown, model, tokenizer, ids, args.compare_tokens, options)
    if args.json:
        told = {"schema": SCHEMA, "prompt": args.prompt, "text": made.text, "tokens": made.tokens, **wall}
        print_document({**told, "stats": stats, "rows": rows})
    else:
        console.print(strategy_table(rows), notes(rows[-1]))
    return 0


def _compare(
    strategies: Iterable[str], model: Any, tokenizer: Any, ids: Any, tokens: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """handle.stats() of each strategy after `tokens` tokens, at equal bytes."""
    from hetsched import attach
    from hetsched.plugins import plugin
    from hetsched.policy import traits_of
    from hetsched.scheduler import DEFAULT_SOLVER

    frequency_LE, rows = _calibrate(model, tokenizer, options), []
    for policy in strategies:
        says = traits_of(plugin("hetsched.policies", policy))
        solver = options["solver"] if says.uses_solver else DEFAULT_SOLVER
        forecaster = options["forecaster"] if says.uses_forecaster else None
        own = {**options, "policy": policy, "solver": solver, "forecaster": forecaster}
        with attach(model, **own, frequency_LE=frequency_LE) as handle, seeded(AGAIN, model):
            generate(model, tokenizer, ids, tokens, stream=False)
            rows.append(handle.stats())
    return rows


def _calibrate(model: Any, tokenizer: Any, options: dict[str, Any]) -> Any:
    """Tokens per expert [L, E] on another text than the one compared."""
    from hetsched import attach
    from hetsched.scheduler import DEFAULT_SOLVER

    plain = {"policy": "cpu-only", "solver": DEFAULT_SOLVER, "forecaster": None, "time_scale": 1.0}
    with attach(model, **{**options, **plain}) as handle, seeded(AGAIN, model):
        generate(model, tokenizer, encode(tokenizer, CALIBRATION), 32, stream=False)
        return handle.scheduler.tokens_LE.astype(float)
