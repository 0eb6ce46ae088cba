"""`hetsched solve`: dispatch strategies against each other on random or recorded layers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from hetsched.cost.model import CostModel
from hetsched.dispatch.contest import Row, contest
from hetsched.dispatch.instances import random_problem, trace_problems
from hetsched.dispatch.problem import DispatchProblem
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.plugins import installed_name, plugin
from hetsched.replay.simulator import check_shape
from hetsched.report.documents import print_document
from hetsched.report.tables import Column, Page, Sheet, console, figures
from hetsched.traces.trace import RoutingTrace, load_trace
from hetsched.types import Phase

from .option_types import (
    NotedOption,
    at_least_one,
    names_list,
    non_empty_text,
    refuse_given,
    seconds,
    seed,
    share,
    whole,
)
from .paths import InputFile, NameOrPath, PlotFile
from .replaying import libraries_silenced
from .shapes import model_named

DEFAULT_MODEL = "gpt-oss-20b"
TRACE_OPTIONS = ("hardware", "model", "gpu_fraction", "phase", "tokens", "instances")
MAX_SIZE = 4096  # experts of one problem, 16 times the largest layer there is
SCHEMA = "hetsched-solve/1"
MAX_RANDOM = 10**6
PHASES = ("decode", "verify", "prefill")
DEFAULT = (
    "exact,cp-sat,mathopt-highs,greedy-dali,list-hybrimoe,ratio-freetoken,rule-fiddler,threshold-spac,sort,all-cpu"
)
EXAMPLES: tuple[str, ...] = (
    "hetsched solve --random 200",
    "hetsched solve --random 50 --solvers exact,greedy-dali,sort --size 12 --json",
    "hetsched solve --trace trace.npz --model gpt-oss-20b --hardware rtx-4090 --phase prefill --plot solve.svg",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "compare dispatch strategies: objective against the optimum, share proved, time"
    parser = subparsers.add_parser("solve", help=text, description=text)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", action=InputFile, metavar="FILE", help="layers of a recorded routing trace (.npz)")
    source.add_argument("--random", type=whole(1, MAX_RANDOM), metavar="N", help="N random problems of many kinds")
    text = "strategies (default: %(default)s)"
    parser.add_argument("--solvers", type=names_list, default=DEFAULT, metavar="A[,B]", help=text)
    _add_trace_options(parser)
    text = "with --random: experts of each problem (default: 1 to 32, drawn)"
    parser.add_argument("--size", type=whole(0, MAX_SIZE), action=NotedOption, metavar="N", help=text)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    text = "of a call, as 0.05 or 50ms; later answers are failures"
    parser.add_argument("--time-limit", type=seconds(0, 1e6, low_excluded=True), metavar="SECONDS", help=text)
    text = "draw quality against time into FILE (.png, .svg or .pdf)"
    parser.add_argument("--plot", action=PlotFile, metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def _add_trace_options(parser: argparse.ArgumentParser) -> None:
    """Those of TRACE_OPTIONS."""
    name, text = non_empty_text, "with --trace: machine (default: %(default)s)"
    parser.add_argument(
        "--hardware", type=name, action=NotedOption, default="rtx-4060-laptop-8gb", metavar="NAME", help=text
    )
    text = f"with --trace: geometry, or 'demo' (default: the model that the trace names, else {DEFAULT_MODEL})"
    parser.add_argument("--model", action=NameOrPath, metavar="NAME", help=text)
    text = "with --trace: share of the experts that is on the GPU (default: %(default)s)"
    parser.add_argument("--gpu-fraction", type=share, action=NotedOption, default=0.25, metavar="SHARE", help=text)
    text = "with --trace: kind of step that its tokens make (default: %(default)s)"
    parser.add_argument("--phase", type=str.lower, choices=PHASES, action=NotedOption, default="decode", help=text)
    text = "with --trace: tokens of a step (default: 1, 5 or 256, by phase)"
    parser.add_argument("--tokens", type=at_least_one, action=NotedOption, metavar="N", help=text)
    text = "with --trace: layers drawn from it (default: %(default)s)"
    parser.add_argument("--instances", type=at_least_one, action=NotedOption, default=200, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Build the problems, run every strategy on each, report. Always 0: a bad strategy is a result."""
    names = [installed_name("hetsched.solvers", name) for name in args.solvers]
    for name in names:
        plugin("hetsched.solvers", name)  # an unknown name is an error before anything runs
    problems, facts = _random(args) if args.trace is None else _recorded(args)
    with libraries_silenced():
        held = contest(names, problems, args.time_limit)
    rows = held.rows(solver.name for solver in held.solvers[: len(names)])
    if args.plot:
        from hetsched.report.solve_plot import plot_rows

        plot_rows(rows, args.plot)
    if args.json:
        document = {
            "schema": SCHEMA,
            **facts,
            "instances": held.instances,
            "rows": [row._asdict() for row in rows],
        }
        print_document(document, indent=2)
    else:
        _print(rows, held.instances)
    return 0


def _recorded(args: argparse.Namespace) -> tuple[Iterator[DispatchProblem], dict[str, str]]:
    """Problems of a trace, and whose geometry and machine they are of."""
    refuse_given(args, ("size",), "belongs to --random")
    machine = gallery.machine(args.hardware)
    trace = load_trace(args.trace)
    geometry = model_named(args.model or _model_of(trace))
    check_shape(trace, geometry.num_layers, geometry.num_experts, geometry.name)
    costs = CostModel(machine, geometry)
    if not costs.has_gpu:
        raise InputError(f"--hardware {args.hardware} has no GPU, so there is nothing to decide; choose one with a GPU")
    problems = trace_problems(
        trace,
        costs,
        gpu_fraction=args.gpu_fraction,
        phase=Phase[args.phase.upper()],
        tokens=args.tokens,
        count=args.instances,
        seed=args.seed,
    )
    return problems, {"model": geometry.name, "hardware": machine.name}


def _model_of(trace: RoutingTrace) -> str:
    """The gallery's model that a trace says it was recorded on, else the usual one, whose shape is then checked."""
    named = str(trace.meta.get("model", ""))
    return named if gallery.has_model(named) else DEFAULT_MODEL


def _random(args: argparse.Namespace) -> tuple[Iterator[DispatchProblem], dict[str, str]]:
    refuse_given(args, TRACE_OPTIONS, "belongs to --trace")
    return _drawn(args), {}


def _drawn(args: argparse.Namespace) -> Iterator[DispatchProblem]:
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
