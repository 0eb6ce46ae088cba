"""`hetsched explain`: why a layer of a run was decided as it was, or the story of one expert."""

from __future__ import annotations

import argparse

from hetsched.report.documents import print_document

from ..errors import InputError
from .option_types import whole
from .paths import InputFile

EXAMPLES = (
    "hetsched explain run.jsonl --step 12 --layer 3",
    "hetsched explain run.jsonl --step 12 --layer 3 --expert 7",
    "hetsched explain run.jsonl --layer 3 --expert 7",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "from a run log, explain one layer's decision with its alternatives, or tell the story of one expert"
    parser = subparsers.add_parser("explain", help=text, description=text)
    text = "run log, of 'hetsched run --log' or 'hetsched simulate --log'"
    parser.add_argument("log", action=InputFile, metavar="RUN.jsonl", help=text)
    text = "step, from 0; without it the story of --expert through the whole run"
    parser.add_argument("--step", type=whole(0), metavar="N", help=text)
    parser.add_argument("--layer", type=whole(0), required=True, metavar="L", help="MoE layer, from 0")
    text = "expert of that layer, from 0; with --step, only what concerns it"
    parser.add_argument("--expert", type=whole(0), metavar="E", help=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain; 0."""
    from hetsched.explain.layer import explained
    from hetsched.explain.story import story
    from hetsched.report.explain_view import explain_view
    from hetsched.report.tables import console
    from hetsched.runlog import read_run

    if args.step is None and args.expert is None:
        raise InputError("--step or --expert is missing: name the step to explain, or the expert whose story to tell")
    log = read_run(args.log)
    if args.step is None:
        document = story(log, args.layer, args.expert)
    else:
        document = explained(log, args.step, args.layer, args.expert)
    if args.json:
        print_document(document)
    else:
        console().print(explain_view(document))
    return 0
