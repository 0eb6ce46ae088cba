"""Options that say what a draft is worth, of `trace speculate` and `compare --speculation`, and how many are made."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .option_types import NotedOption, names_list, non_empty_text, refuse_given, seed, share, whole
from .paths import InputFile, OutputFile

if TYPE_CHECKING:
    from hetsched.replay import Speculation
    from hetsched.traces.speculative import Acceptance

AUTO = "auto"
SPECULATING = ("drafts", "draft", "acceptance", "same_routing", "seed")
USUAL_DRAFTS = (1, 2, 4, 8)
MOST_DRAFTS = 63  # as traces/speculative.py


def add_acceptance_options(parser: argparse._ActionsContainer, usual: str | None = None) -> None:
    """--acceptance (needed where there is no usual one), --same-routing, --seed."""
    text = "probability that a draft is right if those before it were; P1,P2,...: of the first, second, ... of a step, "
    text += "the last also of all after it"
    told = text if usual is None else f"{text} (default: {usual})"
    more = {"required": True} if usual is None else {"default": chances(usual)}
    parser.add_argument("--acceptance", type=chances, action=NotedOption, metavar="P[,P2,...]", help=told, **more)
    text = "probability, layer by layer, that a wrong draft is routed as the real token of its place (default: 0)"
    parser.add_argument("--same-routing", type=share, action=NotedOption, default=0.0, metavar="Q", help=text)
    text = "of the guesses, which are the same for every number of drafts (default: %(default)s)"
    parser.add_argument("--seed", type=seed, action=NotedOption, default=0, metavar="N", help=text)


def add_derivation_options(parser: argparse.ArgumentParser) -> None:
    """What `trace speculate` reads and writes, and the drafts in it."""
    parser.add_argument("file", action=InputFile, metavar="FILE")
    parser.add_argument("-o", "--out", required=True, action=OutputFile, metavar="FILE", help="trace to write (.npz)")
    text = f"drafts of each verify step, 1 to {MOST_DRAFTS}"
    parser.add_argument("--drafts", type=whole(1, MOST_DRAFTS), required=True, metavar="K", help=text)
    add_acceptance_options(parser)


def add_speculation_options(parser: argparse.ArgumentParser) -> None:
    """--speculation, and what belongs to it."""
    group = parser.add_argument_group("speculation", "systems that verify drafts beside those that decode one by one")
    text = "compare the systems that MoE-SpAc compares itself with, at equal bytes and with equal drafts"
    group.add_argument("--speculation", action="store_true", help=text)
    usual = ",".join(map(str, USUAL_DRAFTS))
    text = f"drafts of a step, 1 to {MOST_DRAFTS}, or auto: chosen before each step (default: auto, beside {usual})"
    group.add_argument(
        "--drafts", type=draft_numbers, action=NotedOption, default=AUTO, metavar="1,2,4,auto", help=text
    )
    text = (
        "prompt-lookup, which takes nothing, or a draft model: its bytes, which come off the experts', and its seconds "
    )
    text += "a token, as many as reading the bytes takes if none are given (default: %(default)s)"
    group.add_argument(
        "--draft",
        type=non_empty_text,
        action=NotedOption,
        default="prompt-lookup",
        metavar="NAME[=BYTES[,SECONDS]]",
        help=text,
    )
    add_acceptance_options(group, usual="0.7")


def draft_numbers(text: str) -> list[str]:
    """A type: numbers of drafts from 1, and "auto", with commas between."""
    names = [name.lower() for name in names_list(text)]
    for name in names:
        if name != AUTO:
            whole(1, MOST_DRAFTS)(name)
    return names


def chances(text: str) -> list[float]:
    """A type: probabilities, '0.8,0.7,0.7'."""
    return [share(part) for part in text.split(",")]


def acceptance_from(args: argparse.Namespace) -> Acceptance:
    """What the options say."""
    from hetsched.traces.speculative import Acceptance

    return Acceptance(tuple(args.acceptance), args.same_routing, args.seed)


def speculation_from(args: argparse.Namespace) -> tuple[Speculation, list[int]]:
    """How drafts are made, and the numbers of them; "auto" alone stands for the usual ones too."""
    from hetsched.replay import AUTO as CHOSEN
    from hetsched.replay import Draft, Speculation

    fixed = [int(name) for name in args.drafts if name != AUTO] if args.drafts != AUTO else []
    chosen = [CHOSEN] if AUTO in args.drafts else []
    return Speculation(acceptance_from(args), Draft.parsed(args.draft)), [*(fixed or USUAL_DRAFTS), *chosen]


def refuse_speculation_options(args: argparse.Namespace) -> None:
    """Raise InputError for an option that only --speculation has a use for."""
    refuse_given(args, SPECULATING, "belongs to --speculation")
