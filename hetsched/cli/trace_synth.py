"""`hetsched trace synth`: its options, and the numbers that they come to."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError
from hetsched.traces.trace import load_trace

from .option_types import at_least_one, seed
from .paths import InputFile, OutputFile

if TYPE_CHECKING:
    from hetsched.traces.synth import SynthParams

SHAPE = ("layers", "experts", "top_k")
LENGTH = ("tokens", "sequences")
STATISTICS = {"skew": 1.1, "locality": 0.25, "drift": 0.45}  # about those of gpt-oss-20b


def add_synth_options(synth: argparse.ArgumentParser) -> None:
    """--out, --like, shape, length, statistics, --seed."""
    synth.add_argument("-o", "--out", required=True, action=OutputFile, metavar="FILE", help="trace to write (.npz)")
    synth.add_argument(
        "--like", action=InputFile, metavar="FILE", help="fit shape, length and statistics of each layer to it"
    )
    for name in (*SHAPE, *LENGTH):
        text = "instead of that trace's" if name in LENGTH else "not with --like"
        text = f"{name.replace('top_k', 'experts a token')}: needed without --like, {text}"
        synth.add_argument(f"--{name.replace('_', '-')}", type=at_least_one, metavar="N", help=text)
    texts = {
        "skew": "Zipf exponent: the expert at rank r weighs r ** -skew",
        "locality": "probability that a token keeps an expert of the token before",
        "drift": "share of experts whose ranks are shuffled anew in every sequence",
    }
    for name, default in STATISTICS.items():
        synth.add_argument(
            f"--{name}",
            type=float,
            metavar="X",
            help=f"{texts[name]} (default: {default}, or as in --like)",
        )
    synth.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (default: %(default)s)")


def synth_params(args: argparse.Namespace) -> SynthParams:
    """What is to be drawn. Raises InputError for what is missing, or given beside --like."""
    from hetsched.traces.fit_synth import fit_synth
    from hetsched.traces.synth import SynthParams

    if args.like is None:
        missing = [name for name in (*SHAPE, *LENGTH) if getattr(args, name) is None]
        if missing:
            raise InputError(f"--{missing[0].replace('_', '-')} is needed, or --like FILE, which gives it")
        numbers: dict[str, Any] = {name: getattr(args, name) for name in (*SHAPE, *LENGTH)}
        chosen: dict[str, Any] = {
            n: default if getattr(args, n) is None else getattr(args, n) for n, default in STATISTICS.items()
        }
        return SynthParams.uniform(**numbers, **chosen)
    if given := [name for name in SHAPE if getattr(args, name) is not None]:
        raise InputError(f"--{given[0].replace('_', '-')} cannot be given with --like, which has its own")
    fitted = fit_synth(load_trace(args.like))
    tokens = args.tokens or fitted.tokens
    sequences = args.sequences or max(1, round(fitted.sequences * tokens / fitted.tokens))
    changed: dict[str, Any] = {
        f"{n}_L": (getattr(args, n),) * fitted.layers for n in STATISTICS if getattr(args, n) is not None
    }
    return replace(fitted, tokens=tokens, sequences=sequences, **changed)
