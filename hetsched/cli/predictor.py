"""`hetsched predictor`: train forecasters on routing traces, score them, look at them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hetsched.report.documents import print_document
from hetsched.report.tables import console

from .option_types import at_least_one, finite_float, seed, share
from .paths import InputFile, OutputFile
from .replaying import replay_bar

EXAMPLES: tuple[str, ...] = (
    "hetsched predictor train --trace trace.npz --out learned.safetensors --epochs 3",
    "hetsched predictor eval --trace other.npz --predictor learned.safetensors",
    "hetsched predictor info learned.safetensors --json",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its own verbs."""
    text = "forecasters learned from routing traces: train, score and show them"
    parser = subparsers.add_parser("predictor", help=text, description=text)
    verbs = parser.add_subparsers(dest="predictor_verb", required=True, metavar="VERB")
    for add in (_add_train, _add_eval, _add_info):
        add(verbs)


def _verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=action)
    return parser


def _add_train(verbs: Any) -> None:
    text = "learn from the first sequences of a trace; goes on where an interrupted run stopped"
    train = _verb(verbs, "train", _train, text)
    train.add_argument("--trace", required=True, action=InputFile, metavar="FILE", help="recorded routing (.npz)")
    train.add_argument("-o", "--out", required=True, action=OutputFile, metavar="FILE", help="predictor (.safetensors)")
    text = "compact: decides in replays and models; published: MoE-Beyond's, to be scored (default: %(default)s)"
    architectures = ("compact", "published")
    train.add_argument("--architecture", type=str.lower, choices=architectures, default="compact", help=text)
    train.add_argument("--seed", type=seed, default=0, metavar="N", help="(default: %(default)s)")
    text = "passes over the trace at most (default: %(default)s); fewer where nothing gets better"
    train.add_argument("--epochs", type=at_least_one, default=20, metavar="N", help=text)
    text = "stop after so many minutes of this run; the file then depends on the machine's speed"
    train.add_argument("--minutes", type=finite_float(0, 1e6, low_excluded=True), metavar="M", help=text)
    text = "learn from the first share of the sequences, score the others (default: %(default)s)"
    train.add_argument("--fit-sequences", type=share, default=0.5, metavar="SHARE", help=text)
    text = "learn from hidden states, too, as 'hetsched trace record --hidden' writes them"
    train.add_argument("--hidden", action="store_true", help=text)
    text = "honest: what is known before a layer's router runs; published: the router's own input, and later tokens"
    protocols = ("honest", "published")
    train.add_argument(
        "--protocol", type=str.lower, choices=protocols, default="honest", help=f"{text} (default: honest)"
    )


def _add_eval(verbs: Any) -> None:
    text = "score a predictor beside other forecasters on the sequences that were held out"
    scored = _verb(verbs, "eval", _eval, text)
    scored.add_argument("--trace", required=True, action=InputFile, metavar="FILE", help="recorded routing (.npz)")
    scored.add_argument("--predictor", required=True, action=InputFile, metavar="FILE", help="of 'predictor train'")
    text = "score only the first N held-out tokens (default: all)"
    scored.add_argument("--max-tokens", type=at_least_one, metavar="N", help=text)


def _add_info(verbs: Any) -> None:
    info = _verb(verbs, "info", _info, "what a predictor is, how it was trained, and what a forecast takes")
    info.add_argument("file", action=InputFile, metavar="FILE")


def _train(args: argparse.Namespace) -> int:
    from hetsched.predictor.training import Options, train
    from hetsched.report.predictor_view import facts
    from hetsched.traces.trace import load_trace

    names = ("architecture", "seed", "epochs", "minutes", "fit_sequences", "hidden", "protocol")
    options = Options(**{name: getattr(args, name) for name in names})
    trace = load_trace(args.trace)
    with replay_bar("training") as show:
        meta = train(trace, args.out, options, show)
    if args.json:
        print_document({"schema": "hetsched-predictor-train/1", "file": str(args.out), **meta})
    else:
        console().print(facts(args.out.name, meta))
    return 0


def _eval(args: argparse.Namespace) -> int:
    from hetsched.predictor.evaluation import evaluate
    from hetsched.report.predictor_view import scores_page
    from hetsched.traces.trace import load_trace

    trace = load_trace(args.trace)
    with replay_bar("scoring") as show:
        found = evaluate(args.predictor, trace, max_tokens=args.max_tokens, progress=show)
    if args.json:
        print_document({"schema": "hetsched-predictor-eval/1", "predictor": args.predictor.name, **found})
    else:
        console().print(scores_page(args.predictor.name, found))
    return 0


def _info(args: argparse.Namespace) -> int:
    from hetsched.predictor.store import load
    from hetsched.report.predictor_view import facts

    stored = load(args.file)
    told = {**stored.meta, "weights": sum(int(array.size) for array in stored.arrays.values())}
    if told["architecture"] == "compact":
        from hetsched.predictor.timing import forecast_seconds

        told["forecast_s"] = forecast_seconds(args.file, stored)
    if args.json:
        print_document({**told, "schema": "hetsched-predictor-info/1", "file": args.file.name})
    else:
        console().print(facts(args.file.name, told))
    return 0
