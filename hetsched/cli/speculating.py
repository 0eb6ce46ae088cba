"""Speculation for the verbs that generate: --speculate and --draft."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from hetsched.errors import InputError
from hetsched.files import user_path
from hetsched.loading.progress import stage

from .attaching import DEMO, load_tokenizer, model_folder
from .drafting import MOST_DRAFTS
from .option_types import NotedOption, is_given, non_empty_text, whole

_NUMBER = whole(0, MOST_DRAFTS)


def add_speculation_options(parser: argparse.ArgumentParser) -> None:
    """--speculate and --draft."""
    text = "verify so many drafts a step, up to %d; auto: as many as pay, none where none do (default: %%(default)s)"
    parser.add_argument("--speculate", type=_how_many, default="off", metavar="auto|off|K", help=text % MOST_DRAFTS)
    text = "who drafts: prompt-lookup, self (experts on the GPU alone), or a checkpoint folder (default: %(default)s)"
    parser.add_argument(
        "--draft", type=non_empty_text, action=NotedOption, default="prompt-lookup", metavar="NAME", help=text
    )


def refuse_idle_draft(args: argparse.Namespace) -> None:
    """Raise InputError for a drafter where nothing is speculated, or a folder that holds none."""
    if args.speculate == "off":
        if is_given(args, "draft"):
            raise InputError("--draft belongs to --speculate, which is off; add --speculate auto, or drop it")
    elif not _is_name(args.draft) and args.draft != DEMO and not (user_path(args.draft) / "config.json").is_file():
        raise InputError(
            f"--draft {args.draft!r:.200} is neither prompt-lookup, self nor a checkpoint folder: it has no config.json"
        )


def check_draft(args: argparse.Namespace, tokenizer: Any) -> None:
    """Load the draft model, if there is to be one. Raises InputError for none, or one whose tokens are others."""
    if args.speculate == "off" or _is_name(args.draft):
        return
    theirs, _ = _draft_model(args.draft)
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise InputError(f"draft model {args.draft} has another tokenizer than the model; choose one of its family")


def speculating(args: argparse.Namespace, handle: Any, tokenizer: Any) -> AbstractContextManager[Any]:
    """The context in which the attached model speculates as was asked; of None where it does not."""
    if args.speculate == "off":
        return nullcontext()
    draft = args.draft.lower() if _is_name(args.draft) else _draft_model(args.draft)[1]
    speculation: AbstractContextManager[Any] = handle.speculate(draft, args.speculate)
    return speculation


@lru_cache(maxsize=1)
def _draft_model(name: str) -> tuple[Any, Any]:
    """Tokenizer and model of a draft, as its checkpoint stores them. Raises InputError where it has none."""
    import torch

    from hetsched.loading.load import load_dense

    folder = model_folder(name)
    with stage("loading the draft model"):
        return load_tokenizer(folder), load_dense(folder, torch.float32)


def _is_name(draft: str) -> bool:
    return draft.lower() in ("prompt-lookup", "self")


def _how_many(text: str) -> str | int:
    """A type: auto, off, or a number of drafts; 0 is off."""
    if text.lower() in ("auto", "off"):
        return text.lower()
    try:
        return _NUMBER(text) or "off"
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is neither auto, off nor a number from 0 to {MOST_DRAFTS}"
        ) from None
