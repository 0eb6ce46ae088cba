"""Options that say what a draft is worth: of `trace speculate` and of `compare --speculation`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .option_types import seed, share

if TYPE_CHECKING:
    from hetsched.traces.speculative import Acceptance


def add_acceptance_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """--acceptance, --same-routing, --seed."""
    text = "probability that a draft is right if those before it were; P1,P2,...: of the first, second, ... of a step"
    parser.add_argument(
        "--acceptance",
        type=chances,
        required=required,
        metavar="P[,P2,...]",
        help=text if required else f"{text} (0.7)",
    )
    text = "probability, layer by layer, that a wrong draft is routed as the real token of its place (default: 0)"
    parser.add_argument("--same-routing", type=share, default=0.0, metavar="Q", help=text)
    text = "of the guesses, which are the same for every number of drafts (default: %(default)s)"
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=text)


def chances(text: str) -> tuple[float, ...]:
    """A type: probabilities, '0.8,0.7,0.7'."""
    return tuple(share(part) for part in text.split(","))


def acceptance_from(args: argparse.Namespace, usual: float | None = None) -> Acceptance:
    """What the options say."""
    from hetsched.traces.speculative import Acceptance

    given = args.acceptance if usual is None or args.acceptance is not None else (usual,)
    return Acceptance(given, args.same_routing, args.seed)
