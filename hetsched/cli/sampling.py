"""How a verb draws its tokens: --greedy, --temperature, --top-p, --repetition-penalty and --seed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .generating import GREEDY
from .option_types import NotedOption, finite_float, refuse_given, seed

DEFAULT_SEED = 0
HOTTEST = 100.0  # a temperature at which all tokens are as likely, and a penalty that forbids


@dataclass(frozen=True)
class Sampling:
    """`settings`: what goes before the checkpoint's generation_config.json. `seed`: None where nothing is drawn."""

    settings: dict[str, Any]
    seed: int | None


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """--greedy, --temperature, --top-p, --repetition-penalty and --seed."""
    parser.add_argument("--greedy", action="store_true", help="no sampling, whatever generation_config.json says")
    above_0 = finite_float(0, HOTTEST, low_excluded=True)
    text = "sample; below 1 likely tokens become likelier (default: generation_config.json's)"
    parser.add_argument("--temperature", type=above_0, action=NotedOption, metavar="X", help=text)
    text = "sample among the likeliest tokens that have this probability together (default: generation_config.json's)"
    parser.add_argument(
        "--top-p", type=finite_float(0, 1, low_excluded=True), action=NotedOption, metavar="P", help=text
    )
    text = "make tokens that were there less likely; 1 for none (default: generation_config.json's)"
    parser.add_argument("--repetition-penalty", type=above_0, metavar="X", help=text)
    text = f"of what is drawn: the same seed, the same text (default: {DEFAULT_SEED})"
    parser.add_argument("--seed", type=seed, action=NotedOption, metavar="N", help=text)


def refuse_idle_sampling(args: argparse.Namespace) -> None:
    """Raise InputError for an option of sampling where nothing is sampled."""
    if args.greedy:
        refuse_given(args, ("temperature", "top_p", "seed"), "is for sampling, and --greedy never samples")


def sampling_of(args: argparse.Namespace, config: Any) -> Sampling:
    """What the options ask of a model whose generation config is `config`."""
    drawn = {name: getattr(args, name) for name in ("temperature", "top_p") if getattr(args, name) is not None}
    settings: dict[str, Any] = {"do_sample": True, **drawn} if drawn else dict(GREEDY) if args.greedy else {}
    if args.repetition_penalty is not None:
        settings["repetition_penalty"] = args.repetition_penalty
    samples = settings.get("do_sample", config.do_sample)
    return Sampling(settings, (DEFAULT_SEED if samples else None) if args.seed is None else args.seed)


@contextmanager
def seeded(sampling: Sampling, model: Any) -> Iterator[None]:
    """Context in which torch draws by the seed, on the CPU and where the model is; after it, as if nothing had been."""
    if sampling.seed is None:
        yield
        return
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sampling.seed)
        yield
