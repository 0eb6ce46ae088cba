"""What the verbs that replay traces share: their options, and quiet libraries."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.machine.drift import TrueMachine
from hetsched.machine.host_cost import KnownHost, keep_host, known_host, with_host
from hetsched.machine.profile import HardwareProfile
from hetsched.replay.steps import MODES
from hetsched.report.tables import console

from .option_types import at_least_one, non_empty_text, seconds, share, whole
from .parser import formerly
from .paths import InputFile, NameOrPath

BOUND_WINDOWS = 12


def add_replay_options(parser: argparse.ArgumentParser) -> None:
    """--trace, --model, and how it is replayed: what is fitted and scored, charged, solved and bounded."""
    add_trace_options(parser)
    text = "replay windows of K + 1 tokens as verify steps, as if all drafts had been accepted (default: 0, none)"
    parser.add_argument("--verify", type=at_least_one, default=0, metavar="K", help=text)
    text = "steps as recorded, or token by token; auto: as recorded if any decode step was (default: %(default)s)"
    parser.add_argument("--replay", type=str.lower, choices=MODES, default="auto", help=text)
    add_charge_options(parser)
    text = "dispatch solver (default: %(default)s)"
    parser.add_argument("--solver", type=non_empty_text, default="exact", metavar="NAME", help=text)
    text = "forecaster of strategies that ask one (default: each strategy's own)"
    parser.add_argument("--forecaster", type=non_empty_text, metavar="NAME", help=text)
    text = (
        "machine that it really is, while schedulers believe in --hardware; a part may be so many times as slow, from "
    )
    text += "a step on: NAME+cpu=10+link=10@50 (default: the one believed)"
    parser.add_argument("--true-hardware", type=non_empty_text, metavar="NAME", help=text)
    text = "let schedulers go on believing their profile, whatever they measure"
    parser.add_argument("--no-recalibration", dest="recalibrate", action="store_false", help=text)
    text = "let simple strategies decide while hetsched is worse than they would be (default: with --true-hardware)"
    parser.add_argument("--guard", dest="watch", action=argparse.BooleanOptionalAction, help=text)
    text = "16-step windows of the clairvoyant bound, evenly spread; 0: no bound (default: %(default)s)"
    parser.add_argument("--bound-windows", type=whole(0), default=BOUND_WINDOWS, metavar="N", help=text)


def add_trace_options(parser: argparse.ArgumentParser) -> None:
    """--trace, --model, and which part of the trace is fitted on and which is scored."""
    parser.add_argument("--trace", required=True, action=InputFile, metavar="FILE", help="recorded routing (.npz)")
    parser.add_argument(
        "--model",
        required=True,
        action=NameOrPath,
        metavar="NAME",
        help="what it was recorded on: see 'hetsched profiles list'; or 'demo'",
    )
    name = non_empty_text
    formerly(parser, "--dtype", "--format")
    text = "experts stored in it, q4_k or q4_k/q6_k (gate and up, down) (default: as published)"
    parser.add_argument("--format", type=name, dest="dtype", metavar="NAME", help=text)
    text = "fit frequencies and predictors on the first share of the sequences, score the others (default: 0.5)"
    fit = parser.add_mutually_exclusive_group()
    fit.add_argument("--fit-sequences", type=share, metavar="SHARE", help=text)
    text = "fit them on this trace of the model instead, all of it, and score all of --trace"
    fit.add_argument("--fit-trace", action=InputFile, metavar="FILE", help=text)
    parser.add_argument(
        "--max-tokens", type=at_least_one, metavar="N", help="score only the first N tokens of the rest (default: all)"
    )


def add_charge_options(parser: argparse.ArgumentParser, noted: type[argparse.Action] | None = None) -> None:
    """--decision and --host, what a replay is charged; `noted`: an action that notes that they were given."""
    more: dict[str, Any] = {} if noted is None else {"action": noted}
    text = "charge each decision what it takes here, or a constant, for reproducible results (default: %(default)s)"
    parser.add_argument("--decision", default="measured", metavar="measured|SECONDS", help=text, **more)
    text = "charge each layer the engine's own time: measured here once, seconds, or none (default: as --decision)"
    parser.add_argument("--host", type=non_empty_text, metavar="measured|SECONDS|none", help=text, **more)


def replay_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of a study from the parsed options, but for what it is fitted on (study.fitted_on)."""
    names = ("max_tokens", "verify", "replay", "solver", "forecaster", "bound_windows", "recalibrate", "watch")
    decision_s = decision_seconds(args.decision)
    charges = {"decision_s": decision_s, "host_s": host_seconds(args.host, decision_s)}
    return {**{name: getattr(args, name) for name in names}, **charges}


def true_machine(args: argparse.Namespace) -> TrueMachine | None:
    """The machine of --true-hardware; None where it was not given."""
    return None if args.true_hardware is None else gallery.true_machine(args.true_hardware)


def with_hosts(names: Sequence[str], host_s: float | None) -> list[HardwareProfile]:
    """Machines by name or path. Where their hosts are to be measured, those that were not are taken to be this one.

    What the engine costs here is what an earlier `hetsched profile` or replay measured, else it is measured now.
    """
    machines = [gallery.machine(name) for name in names]
    if host_s is not None or all(machine.host for machine in machines):
        return machines
    known = known_host() or _host_of_this_machine()
    return [machine if machine.host else with_host(machine, known) for machine in machines]


def _host_of_this_machine() -> KnownHost:
    """Measure it, say so, and keep it where that can be."""
    print("hetsched: measuring once what the engine itself takes here; --host none leaves it out ...", file=sys.stderr)
    from hetsched.bench.host_cost import measure_host

    known = measure_host()
    try:
        kept = f"kept in {keep_host(known)}"
    except InputError as error:
        kept = f"not kept: {error}"
    print(f"hetsched: host {1e6 * known.cost.layer_s:.0f} µs a layer, {kept}", file=sys.stderr)
    return known


@contextmanager
def replay_bar(text: str, *, by_itself: bool = True) -> Iterator[Callable[..., None]]:
    """A bar with the time left on standard error of a terminal, told (done, of how many) and, if it is new, a line.

    The line says what is being done; it stands above the bar, and stays. `by_itself` False: drawn only when it is told
    something, for those who measure processor time meanwhile.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    to = console(stderr=True)
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    shown = to.is_terminal
    with Progress(*columns, *times, console=to, transient=True, disable=not shown, auto_refresh=by_itself) as bar:
        task, said = bar.add_task(text, total=None), ""

        def show(done: float, total: int, doing: str = "") -> None:
            nonlocal said
            if shown and doing and doing != said:
                to.print(doing)
                bar.update(task, description="measuring")
                said = doing
            bar.update(task, completed=done, total=total, refresh=not by_itself)

        bar.refresh()
        yield show


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """HiGHS prints lines of its own now and then, past Python, to standard output: nobody sees them.

    What Python prints meanwhile goes to standard error: standard output is for our document alone.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def decision_seconds(text: str) -> float | None:
    """Seconds from 0 to 1 of --decision, None for 'measured'. Raises InputError for anything else."""
    return _seconds("--decision", text, {"measured": None})


def host_seconds(text: str | None, decision_s: float | None) -> float | None:
    """Seconds from 0 to 1 of --host, None for 'measured'. Raises InputError for anything else.

    Not given, a replay is reproducible as a whole, or measured as a whole, as its decisions are.
    """
    if text is None:
        return None if decision_s is None else 0.0
    return _seconds("--host", text, {"measured": None, "none": 0.0})


def _seconds(option: str, text: str, words: dict[str, float | None]) -> float | None:
    if text.lower() in words:
        return words[text.lower()]
    try:
        return seconds(0, 1)(text)
    except argparse.ArgumentTypeError:
        known = ", ".join(repr(word) for word in words)
        raise InputError(
            f"{option} {text!r:.60} is neither {known} nor seconds from 0 to 1; write for instance 0.00002 or 20us"
        ) from None
