"""`hetsched evaluate`: forecasters under the protocols of papers, and under an honest one."""

from __future__ import annotations

import argparse
from typing import Any

from hetsched.errors import InputError
from hetsched.report.documents import print_document

from .option_types import NotedOption, at_least_one, names_list, non_empty_text, refuse_given, shares_list
from .paths import PlotFile
from .replaying import (
    add_charge_options,
    add_trace_options,
    decision_seconds,
    host_seconds,
    libraries_silenced,
    replay_bar,
    with_hosts,
)
from .shapes import model_or_name

PROTOCOLS = ("published", "honest", "caching-study")  # evaluate.PROTOCOLS, which takes long to import
EXAMPLES: tuple[str, ...] = (
    "hetsched evaluate --protocol honest --trace trace.npz --model gpt-oss-20b",
    "hetsched evaluate --protocol caching-study --trace trace.npz --model gpt-oss-20b --json",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "judge forecasters on a routing trace: as a paper published it, or honestly, on sequences held out"
    parser = subparsers.add_parser("evaluate", help=text, description=text)
    text = (
        "published: MoE-Beyond's cache simulation; honest: only what is known before a layer's router ran, copies take "
        "time; caching-study: LRU and LFU with and without speculation, after arXiv 2511.05814"
    )
    parser.add_argument("--protocol", required=True, type=str.lower, choices=PROTOCOLS, help=text)
    add_trace_options(parser)
    text = "machine, which the honest protocol needs: see 'hetsched profiles list'"
    parser.add_argument("--hardware", type=non_empty_text, metavar="NAME", help=text)
    text = "forecasters (default: all; caching-study: transition)"
    parser.add_argument("--forecaster", type=names_list, metavar="A[,B]|all", help=text)
    text = (
        "policies of the honest protocol; those that take a forecaster run with each (default: on-demand-lru,hetsched)"
    )
    parser.add_argument("--strategies", type=non_empty_text, action=NotedOption, metavar="A[,B]|all", help=text)
    text = "shares of the experts' bytes that the GPU has (default: 0.1; caching-study: 0.05 to 0.75)"
    parser.add_argument("--gpu-fraction", type=shares_list, metavar="SHARE[,SHARE]", help=text)
    text = "judge what is said of a layer N layers before it (default: 1, the layer before)"
    parser.add_argument("--distance", type=at_least_one, default=1, metavar="N", help=text)
    add_charge_options(parser, NotedOption)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--plot", action=PlotFile, metavar="FILE", help="draw a picture (.png, .svg or .pdf)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and report; 0."""
    honest = _honest_settings(args)
    from hetsched.evaluate import evaluate
    from hetsched.report.tables import console

    forecasters: Any = "all" if args.forecaster and [f.lower() for f in args.forecaster] == ["all"] else args.forecaster
    model, dtype = model_or_name(args.model, args.dtype)
    with libraries_silenced(), replay_bar("evaluating") as progress:
        came = evaluate(
            args.protocol,
            args.trace,
            model,
            forecasters=forecasters,
            gpu_fractions=args.gpu_fraction,
            dtype=dtype,
            fit_sequences=args.fit_sequences,
            fit_trace=args.fit_trace,
            max_tokens=args.max_tokens,
            distance=args.distance,
            progress=progress,
            **honest,
        )
    if args.plot:
        came.plot(args.plot)
    if args.json:
        print_document(came.document())
    else:
        console().print(came.table())
        if args.plot:
            print(f"drawn: {args.plot}")
    return 0


def _honest_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What only the honest protocol uses, and the machine. Raises InputError for what goes unused, or is missing."""
    if args.protocol != "honest":
        refuse_given(args, ("strategies", "decision", "host"), "belongs to --protocol honest")
        return {"hardware": args.hardware}
    if args.hardware is None:
        raise InputError("--protocol honest replays a machine, since copies take time; give --hardware NAME")
    decision_s = decision_seconds(args.decision)
    host_s = host_seconds(args.host, decision_s)
    (machine,) = with_hosts([args.hardware], host_s)
    return {"hardware": machine, "strategies": args.strategies, "decision_s": decision_s, "host_s": host_s}
