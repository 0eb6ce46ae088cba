"""`hetsched solve`: dispatch strategies against each other on random or recorded layers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np

from hetsched import gallery
from hetsched.contest import Row, contest
from hetsched.cost import CostModel
from hetsched.errors import InputError
from hetsched.instances import random_problem, trace_problems
from hetsched.plugins import installed_name, load
from hetsched.problem import DispatchProblem
from hetsched.report.tables import Column, Page, Sheet, console, figures
from hetsched.trace import load_trace
from hetsched.types import Phase

from .paths import InputFile, NameOrPath, PlotFile
from .replaying import libraries_silenced

SCHEMA = "hetsched-solve/1"
PHASES = ("decode", "verify", "prefill")
DEFAULT = (
    "exact,cp-sat,mathopt-highs,greedy-dali,list-hybrimoe,ratio-freetoken,rule-fiddler,threshold-spac,sort,all-cpu"
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "compare dispatch strategies: objective against the optimum, share proved, time"
    parser = subparsers.add_parser("solve", help=text, description=text)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", action=InputFile, metavar="FILE", help="layers of a recorded routing trace (.npz)")
    source.add_argument("--random", type=int, metavar="N", help="N random problems of many kinds")
    parser.add_argument("--solvers", default=DEFAULT, metavar="A,B,...", help="strategies (default: %(default)s)")
    text = "with --trace: machine (default: %(default)s)"
    parser.add_argument("--hardware", default="rtx-4060-laptop-8gb", metavar="NAME", help=text)
    text = "with --trace: geometry, see 'hetsched profiles list'; or 'demo' (default: %(default)s)"
    parser.add_argument("--model", action=NameOrPath, default="gpt-oss-20b", metavar="NAME", help=text)
    text = "with --trace: share of the experts that is on the GPU (default: %(default)s)"
    parser.add_argument("--gpu-fraction", type=float, default=0.25, metavar="SHARE", help=text)
    text = "with --trace: kind of step that its tokens make (default: %(default)s)"
    parser.add_argument("--phase", type=str.lower, choices=PHASES, default="decode", help=text)
    text = "with --trace: tokens of a step (default: 1, 5 or 256, by phase)"
    parser.add_argument("--tokens", type=int, metavar="T", help=text)
    text = "with --trace: layers drawn from it (default: %(default)s)"
    parser.add_argument("--instances", type=int, default=200, metavar="N", help=text)
    text = "with --random: experts of each problem (default: 1 to 32, drawn)"
    parser.add_argument("--size", type=int, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds a call; later answers are failures")
    parser.add_argument(
        "--plot", action=PlotFile, metavar="FILE", help="draw quality against time into FILE (.png, .svg or .pdf)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the problems, run every strategy on each, report. Always 0: a bad strategy is a result."""
    names = [installed_name("hetsched.solvers", name.strip()) for name in args.solvers.split(",") if name.strip()]
    if not names:
        raise InputError("--solvers is empty; name at least one strategy, for instance --solvers exact,sort")
    for name in names:
        load("hetsched.solvers", name)  # an unknown name is an error before anything runs
    problems = _problems(args)
    with libraries_silenced():
        held = contest(names, problems, args.time_limit)
    rows = held.rows(list(dict.fromkeys(names)))
    if args.plot:
        from hetsched.report.solve_plot import plot_rows

        plot_rows(rows, args.plot)
    if args.json:
        document = {"schema": SCHEMA, "instances": held.instances, "rows": [row._asdict() for row in rows]}
        print(json.dumps(document, indent=2))
    else:
        _print(rows, held.instances)
    return 0


def _problems(args: argparse.Namespace) -> Iterator[DispatchProblem]:
    for name, least in (("instances", 1), ("size", 0), ("tokens", 1), ("random", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}")
    if args.trace is None:
        return _random(args)
    costs = CostModel(gallery.machine(args.hardware), gallery.model(args.model))
    if not costs.has_gpu:
        raise InputError(f"--hardware {args.hardware} has no GPU, so there is nothing to decide; choose one with a GPU")
    return trace_problems(
        load_trace(args.trace),
        costs,
        gpu_fraction=args.gpu_fraction,
        phase=Phase[args.phase.upper()],
        tokens=args.tokens,
        count=args.instances,
        seed=args.seed,
    )


def _random(args: argparse.Namespace) -> Iterator[DispatchProblem]:
    rng = np.random.default_rng(args.seed)
    for _ in range(args.random):
        yield random_problem(rng, int(rng.integers(1, 33)) if args.size is None else args.size)


def _print(rows: Sequence[Row], instances: int) -> None:
    headings = ("mean", "worst", "proved", "median µs", "p99 µs", "speed-up", "failures")
    columns = figures(*headings, drop=("speed-up", "p99 µs", "worst", "proved"))
    table = Sheet(Column("strategy"), *columns, title=f"{instances} dispatch problems; ratio 1 is the optimum")
    slowest_s = max(row.median_s for row in rows)
    for row in rows:
        table.add(
            row.solver,
            f"{row.mean_ratio:.4f}",
            f"{row.worst_ratio:.4f}",
            f"{row.proved:.0%}",
            f"{row.median_s * 1e6:,.0f}",
            f"{row.p99_s * 1e6:,.0f}",
            f"{slowest_s / row.median_s:,.0f}",
            str(row.failures),
        )
    console().print(Page(table))
