"""`hetsched verify --perplexity --gpu-precision NAME`: what lossy copies on the GPU cost, on the same tokens.

Shapes: S tokens of a row.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from typing import Any

from hetsched.errors import InputError
from hetsched.reading import refusing
from hetsched.report.documents import print_document

from .attaching import load_model, lossy_label, options_of

SCHEMA = "hetsched-perplexity/1"
ROW_TOKENS = 256  # of one text, read from an empty cache
STEP_CHARACTERS = 8 * ROW_TOKENS  # English takes well under 8 characters a token


def run(args: argparse.Namespace) -> int:
    """Perplexity with exact experts, then with lossy ones on the GPU at each budget; 0 when measured."""
    if args.gpu_precision is None:
        raise InputError(
            "--perplexity compares lossy copies with exact weights; add --gpu-precision int8, int4 or auto"
        )
    options = options_of(args)
    model, tokenizer = load_model(
        args.model,
        trust_remote_code=args.trust_remote_code,
        options=options,
        prompts=lambda tokenizer: text_rows(tokenizer, args.prompt, args.perplexity),
    )
    from hetsched import attach

    rows = text_rows(tokenizer, args.prompt, args.perplexity)
    model.set_experts_implementation("eager")
    exact = [loss for row in rows for loss in decode_losses(model, row)]
    results = []
    for given in options:
        budget = given["gpu_memory"]
        with attach(model, **given) as handle:
            if handle.stats()["lossless"]:
                raise InputError(f"auto chose exact weights at {budget}, nothing is lossy; name int8 or int4")
            lossy = []
            for number, row in enumerate(rows, 1):
                print(f"gpu memory {budget}: text {number} of {len(rows)}", file=sys.stderr)
                lossy += decode_losses(model, row)
            results.append({"gpu_memory": budget, **compared(exact, lossy), **_of_run(handle.stats())})
            if not args.json:
                print(_line(results[-1]))
    if args.json:
        print_document({"schema": SCHEMA, "tokens": len(exact), "rows": results})
    return 0


def text_rows(tokenizer: Any, prompts: list[str] | None, tokens: int) -> list[list[int]]:
    """About `tokens` tokens in rows: of the prompts given, else of the Python language reference, spread over it."""
    if prompts:
        text = "\n\n".join(prompts)
        pieces = [text[i : i + STEP_CHARACTERS] for i in range(0, len(text), STEP_CHARACTERS)]
    else:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics[name] for name in sorted(topics))
        count = -(-tokens // ROW_TOKENS)
        pieces = [text[len(text) * i // count :][:STEP_CHARACTERS] for i in range(count)]
    rows = []
    for piece in pieces:
        with refusing("the tokenizer makes no tokens of the text", "download its files again"):
            row = tokenizer.encode(piece, add_special_tokens=False)[: min(ROW_TOKENS, tokens)]
        tokens -= len(row)
        rows.append(row)
    if not any(len(row) > 1 for row in rows):
        raise InputError("the text has fewer than two tokens; give --prompt more text")
    return [row for row in rows if len(row) > 1]


def decode_losses(model: Any, row_S: list[int]) -> list[float]:
    """Loss in nats of each token but the first, the model reading one token a step as in decoding: S - 1 numbers."""
    import torch
    from torch.nn import functional

    ids = torch.tensor([row_S], device=model.device)
    cache, losses = None, []
    with torch.inference_mode():
        for s in range(len(row_S) - 1):
            out = model(ids[:, s : s + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            losses.append(float(functional.cross_entropy(out.logits[:, -1].float(), ids[:, s + 1])))
    return losses


def compared(exact: list[float], lossy: list[float]) -> dict[str, float]:
    """Perplexities of the same tokens, the change, and the standard error of the change, in percent."""
    differences = [b - a for a, b in zip(exact, lossy, strict=True)]
    ratio = math.exp(statistics.fmean(differences))
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return {
        "perplexity_exact": math.exp(statistics.fmean(exact)),
        "perplexity_lossy": math.exp(statistics.fmean(lossy)),
        "change_percent": 100 * (ratio - 1),
        "change_stderr_percent": 100 * ratio * spread,
    }


def _of_run(stats: dict[str, Any]) -> dict[str, Any]:
    return {key: stats[key] for key in ("hardware", "emulated", "lossless", "gpu_precision", "lossy_share")}


def _line(row: dict[str, Any]) -> str:
    return (
        f"gpu memory {row['gpu_memory']}: {lossy_label(row)}perplexity {row['perplexity_lossy']:.3f}, exact "
        f"{row['perplexity_exact']:.3f}, change {row['change_percent']:+.2f} ± {row['change_stderr_percent']:.2f} % "
        f"({row['lossy_share']:.0%} of experts computed from copies on the GPU, the others exact on the CPU)"
    )
