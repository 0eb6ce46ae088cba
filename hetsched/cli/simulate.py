"""`hetsched simulate`: one strategy on a recorded trace, looked at closely."""

from __future__ import annotations

import argparse
from dataclasses import replace

from hetsched.report.documents import print_document

from .option_types import non_empty_text, share
from .parser import formerly
from .paths import OutputFile
from .replaying import add_replay_options, libraries_silenced, replay_bar, replay_settings, true_machine, with_hosts
from .shapes import config_named, model_or_name

EXAMPLES: tuple[str, ...] = (
    "hetsched simulate --trace trace.npz --model gpt-oss-20b --hardware rtx-4060-laptop-8gb",
    "hetsched simulate --trace trace.npz --model gpt-oss-20b --hardware t4 --policy on-demand-lru --json",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "replay a routing trace with one strategy: where the time goes, what hits where, a few layers drawn"
    parser = subparsers.add_parser("simulate", help=text, description=text)
    add_replay_options(parser)
    parser.add_argument(
        "--hardware", required=True, type=non_empty_text, metavar="NAME", help="machine: see 'hetsched profiles list'"
    )
    text = "share of the experts' bytes that the GPU has (default: %(default)s)"
    parser.add_argument("--gpu-fraction", type=share, default=0.25, metavar="SHARE", help=text)
    text = "policy, with arguments as in hot-static+profile=FILE (default: %(default)s)"
    formerly(parser, "--strategy", "--policy")
    parser.add_argument("--policy", type=non_empty_text, default="hetsched", metavar="NAME", help=text)
    text = "begin with what earlier runs have learned, if FILE is there, and write it with what this one adds"
    parser.add_argument("--learned", action=OutputFile, metavar="FILE", help=text)
    text = "write what was decided and what it took, layer by layer: for hetsched explain, timeline and report"
    parser.add_argument("--log", action=OutputFile, metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay and report; 0."""
    from hetsched.learned import load, save
    from hetsched.replay import replay_one
    from hetsched.replay.study import Study, fitted_on
    from hetsched.report.simulate_view import simulate_view
    from hetsched.report.tables import console

    settings = replay_settings(args)
    machines = with_hosts([args.hardware], settings["host_s"])
    model, dtype = model_or_name(args.model, args.dtype)
    study = replace(
        Study.of(args.trace, model, machines, dtype, config_named(args.model)),
        **settings,
        true_machine=true_machine(args),
        **fitted_on(args.fit_sequences, args.fit_trace),
    )
    memory = load(args.learned, study.geometry) if args.learned else None
    study = replace(study, learned=memory.sums if memory else None)
    with libraries_silenced(), replay_bar("replaying") as progress:
        report = replay_one(study, args.policy, args.gpu_fraction, progress, args.log)
    if memory:
        save(args.learned, memory.after(report.scheduler))
    if args.json:
        print_document(report.document())
    else:
        console().print(simulate_view(report))
    return 0
