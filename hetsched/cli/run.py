"""`hetsched run`: generate text with a model's experts under the scheduler."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .attaching import (
    add_context_options,
    add_machine_options,
    add_precision_option,
    add_steer_option,
    add_trust_option,
    attached,
    check_prompt,
    context_for,
    context_options,
    encode,
    load_model,
    lossy_label,
    machine_options,
)
from .generating import Generated, generate
from .option_types import at_least_one, non_empty_text
from .paths import OutputFile
from .speculating import add_speculation_options, refuse_idle_draft, speculating

SCHEMA = "hetsched-run/1"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("run", help="generate text under the scheduler", description=__doc__)
    parser.add_argument(
        "--model",
        type=non_empty_text,
        required=True,
        metavar="PATH",
        help="checkpoint folder, GGUF file, hub id, or 'demo'",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="text to go on with")
    parser.add_argument(
        "--max-new-tokens", type=at_least_one, default=64, metavar="N", help="at most (default: %(default)s)"
    )
    add_machine_options(parser)
    add_context_options(parser)
    add_precision_option(parser)
    add_steer_option(parser)
    add_speculation_options(parser)
    add_trust_option(parser)
    text = "begin with what earlier runs have learned, if FILE is there, and write it with what this one adds"
    parser.add_argument("--learned", action=OutputFile, metavar="FILE", help=text)
    parser.add_argument("--greedy", action="store_true", help="no sampling, whatever generation_config.json says")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate as generation_config.json says; text streams to standard output, or one JSON document with --json."""
    from hetsched.report.predictions_view import predictions_line
    from hetsched.report.run_view import faults_line, memory_line, speculation_line, stats_line, stop_line, wall_line

    check_prompt(args.prompt)
    refuse_idle_draft(args)
    options = {**machine_options(args), "learned": args.learned, **context_options(args)}
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code, options=[options])
    ids = encode(tokenizer, args.prompt)
    if args.context is None:
        options["context"] = context_for(int(ids.shape[1]) + args.max_new_tokens)
    with attached(model, options) as handle:
        if not args.json:
            print(f"{lossy_label(handle.stats())}{memory_line(handle)}", file=sys.stderr)
        with speculating(args, handle, tokenizer) as speculation:
            made = generate(model, tokenizer, ids, args.max_new_tokens, stream=not args.json, greedy=args.greedy)
        stats = {**handle.stats(), "speculation": speculation and speculation.stats()}
    wall = made.wall_figures(stats, options)
    if args.json:
        print(json.dumps(run_document(made, wall, int(ids.shape[1]), stats)))
        return 0
    lines = [stats_line(stats), speculation_line(stats["speculation"]), wall_line(made.tokens, wall)]
    for line in filter(None, [*lines, predictions_line(stats["predictions"])]):
        print(f"{lossy_label(stats)}{line}", file=sys.stderr)
    if survived := faults_line(stats):
        print(survived, file=sys.stderr)
    if stopped := stop_line(made.stopped_by, args.max_new_tokens):
        print(stopped, file=sys.stderr)
    return 0


def run_document(made: Generated, wall: dict[str, Any], prompt_tokens: int, stats: dict[str, Any]) -> dict[str, Any]:
    """The verb's JSON document; `tokens_per_s` is the lanes' own, emulated or measured, of decoding alone.

    With speculation it counts the tokens of the text, and the seconds of drafting.
    """
    speculation = stats.get("speculation")
    return {
        "schema": SCHEMA,
        "text": made.text,
        "tokens": made.tokens,
        "prompt_tokens": prompt_tokens,
        "tokens_per_s": (speculation or stats)["tokens_per_s"],
        **wall,
        "hardware": stats["hardware"],
        "emulated": stats["emulated"],
        "lossless": stats["lossless"],
        "gpu_precision": stats["gpu_precision"],
        "steered": stats["steered"],
        "speculation": speculation,
        "gpu_expert_bytes": stats["gpu_expert_bytes"],
        "stats": stats,
    }
