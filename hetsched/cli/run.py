"""`hetsched run`: generate text with a model's experts under the scheduler."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .attaching import (
    add_machine_options,
    add_precision_option,
    encode,
    load_model,
    lossy_label,
    machine_options,
)
from .option_types import at_least_one, non_empty_text

SCHEMA = "hetsched-run/1"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("run", help="generate text under the scheduler", description=__doc__)
    parser.add_argument(
        "--model", type=non_empty_text, required=True, metavar="PATH", help="checkpoint folder, or 'demo'"
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="text to go on with")
    parser.add_argument(
        "--max-new-tokens", type=at_least_one, default=64, metavar="N", help="at most (default: %(default)s)"
    )
    add_machine_options(parser)
    add_precision_option(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate greedily; text streams to standard output, or one JSON document with --json."""
    from hetsched import attach
    from hetsched.report.run_view import memory_line, stats_line

    model, tokenizer = load_model(args.model, options=machine_options(args))
    ids = encode(tokenizer, args.prompt)
    with attach(model, **machine_options(args)) as handle:
        if not args.json:
            print(f"{lossy_label(handle.stats())}{memory_line(handle)}", file=sys.stderr)
        text, tokens = generate(model, tokenizer, ids, args.max_new_tokens, stream=not args.json)
        stats = handle.stats()
    if args.json:
        print(json.dumps(run_document(text, tokens, int(ids.shape[1]), stats)))
    else:
        print(f"{lossy_label(stats)}{stats_line(stats)}", file=sys.stderr)
    return 0


def generate(model: Any, tokenizer: Any, ids: Any, max_new_tokens: int, *, stream: bool) -> tuple[str, int]:
    """Greedy text and its number of tokens; `stream` writes it to standard output as it comes."""
    import torch
    import transformers

    streamer = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None
    ids = ids.to(model.device)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        streamer=streamer,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    new = out[0, ids.shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), len(new)


def run_document(text: str, tokens: int, prompt_tokens: int, stats: dict[str, Any]) -> dict[str, Any]:
    """The verb's JSON document."""
    return {
        "schema": SCHEMA,
        "text": text,
        "tokens": tokens,
        "prompt_tokens": prompt_tokens,
        "tokens_per_s": stats["tokens_per_s"],
        "hardware": stats["hardware"],
        "emulated": stats["emulated"],
        "lossless": stats["lossless"],
        "gpu_precision": stats["gpu_precision"],
        "gpu_expert_bytes": stats["gpu_expert_bytes"],
        "stats": stats,
    }
