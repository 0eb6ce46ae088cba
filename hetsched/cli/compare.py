"""`hetsched compare`: strategies on a recorded trace, over machines and shares of the experts, at equal bytes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from hetsched.report.documents import print_document

from .drafting import add_speculation_options, refuse_speculation_options
from .option_types import at_least_one, names_list, non_empty_text, shares_list
from .paths import PlotTarget
from .replaying import add_replay_options, libraries_silenced, replay_bar, replay_settings, true_machine, with_hosts
from .shapes import config_named, model_or_name

if TYPE_CHECKING:
    from hetsched.replay import Comparison
EXAMPLES: tuple[str, ...] = (
    "hetsched compare --trace trace.npz --model gpt-oss-20b --hardware rtx-4060-laptop-8gb,rtx-4090 --plot pictures",
    "hetsched compare --trace trace.npz --model gpt-oss-20b --hardware t4 --strategies hetsched,gdsf --csv",
    "hetsched compare --trace trace.npz --model gpt-oss-20b --hardware t4 --speculation",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "replay a routing trace with many strategies at equal bytes, on machines you need not own, beside the bound"
    parser = subparsers.add_parser("compare", help=text, description=text)
    add_replay_options(parser)
    text = "machines: see 'hetsched profiles list'"
    parser.add_argument("--hardware", required=True, type=names_list, metavar="A[,B]", help=text)
    text = "shares of the experts' bytes that the GPU has (default: 0.25)"
    parser.add_argument("--gpu-fraction", type=shares_list, default=[0.25], metavar="SHARE[,SHARE]", help=text)
    text = "policies (default: all); with arguments as in class-lru+cpu_share=0.25, hot-static+profile=FILE"
    parser.add_argument("--strategies", type=non_empty_text, default="all", metavar="A[,B]|all", help=text)
    parser.add_argument(
        "--jobs", type=at_least_one, default=1, metavar="N", help="worker processes (default: %(default)s)"
    )
    text = "run on a Ray cluster: pip install 'hetsched[ray]'"
    parser.add_argument("--ray", type=non_empty_text, metavar="ADDRESS|auto", help=text)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document on standard output")
    how.add_argument("--markdown", action="store_true", help="tables in Markdown")
    how.add_argument("--csv", action="store_true", help="all figures, comma-separated")
    text = "draw pictures into FOLDER, or into files whose names begin like FILE (.png, .svg or .pdf)"
    parser.add_argument("--plot", action=PlotTarget, metavar="FOLDER|FILE", help=text)
    add_speculation_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and report: 0, or 1 where a strategy failed; the others are reported all the same."""
    from hetsched.report.compare_plot import left_out
    from hetsched.report.tables import console

    settings = replay_settings(args)
    hardware = with_hosts(args.hardware, settings["host_s"])
    if not args.speculation:
        refuse_speculation_options(args)
    with libraries_silenced(), replay_bar("replaying") as progress:
        compared = (_speculating if args.speculation else _compared)(args, settings, hardware, progress)
    for failure in compared.failures:
        print(f"hetsched: {failure}", file=sys.stderr)
        if args.debug:
            print(failure.where, file=sys.stderr)
    written = compared.plot(args.plot) if args.plot and compared.rows else []
    if written and (missing := left_out(compared)):
        print(missing, file=sys.stderr)
    if args.json:
        print_document(compared.document())
    elif args.markdown:
        print(compared.markdown())
    elif args.csv:
        print(compared.csv(), end="")
    else:
        console().print(compared.table())
        for path in written:
            print(f"drawn: {path}")
    return 0 if compared.is_complete else 1


def _compared(args: argparse.Namespace, settings: dict[str, Any], hardware: Any, progress: Any) -> Comparison:
    from hetsched.replay import compare

    model, dtype = model_or_name(args.model, args.dtype)
    return compare(
        args.trace,
        model,
        dtype=dtype,
        config=config_named(args.model),
        hardware=hardware,
        gpu_fractions=args.gpu_fraction,
        strategies=args.strategies,
        fit_sequences=args.fit_sequences,
        fit_trace=args.fit_trace,
        jobs=args.jobs,
        ray=args.ray,
        true_hardware=true_machine(args),
        progress=progress,
        **settings,
    )


def _speculating(args: argparse.Namespace, settings: dict[str, Any], hardware: Any, progress: Any) -> Comparison:
    from .compare_speculation import compared_speculation

    return compared_speculation(args, settings, hardware, progress)
