"""`hetsched bench --faults`: inject every fault, count what is survived, then all of them at random for many steps."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.progress import Progress, TimeElapsedColumn

from ..accelerators.base import LaneError
from ..report.documents import print_document
from ..report.tables import Column, Page, Sheet, console, figures
from ..testing import broken_plugins as plugins
from ..testing import faults
from ..testing.faults import Dice
from .fault_cases import cases
from .fault_ground import HARDWARE, FaultRow, Ground, with_threads

SCHEMA = "hetsched-faults/1"
STEPS_EACH = 250  # of one attachment in the soak
# of calls: about one fault in twenty steps
RATES = {
    faults.COPY_FAILS: 4e-3,
    faults.COPY_REFUSED: 4e-3,
    faults.COPY_HANGS: 4e-4,
    faults.GPU_RAISES: 2e-3,
    faults.GPU_MEMORY: 2e-3,
    faults.CPU_RAISES: 5e-4,
    plugins.PLAN_RAISES: 4e-3,
    plugins.PLAN_NONSENSE: 4e-3,
    plugins.LEARNING_RAISES: 4e-3,
    plugins.PREFETCH_RAISES: 4e-3,
    plugins.PREFETCH_NONSENSE: 4e-3,
    plugins.SOLVER_RAISES: 2e-2,
    plugins.SOLVER_LATE: 4e-3,
    plugins.SOLVER_NONSENSE: 2e-2,
}


def run(args: argparse.Namespace) -> int:
    """Print a table or, with --json, one document; 0 when everything was survived and no token lost, else 1."""
    to = console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    begin_s, rows, ground = time.perf_counter(), list[FaultRow](), Ground()
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as bar:
        todo = list(cases(ground))
        task = bar.add_task("", total=len(todo))
        for name, inject in todo:
            bar.update(task, description=name)
            rows.append(inject())
            bar.advance(task)
        task = bar.add_task("everything at random", total=args.steps)
        rows.append(soak(ground, args.steps, lambda done: bar.update(task, completed=done)))
    if args.json:
        print_document(document(rows))
    else:
        _print(rows, args.steps, time.perf_counter() - begin_s)
    return int(any(row.tokens_lost or row.survived != row.injected for row in rows))


def document(rows: list[FaultRow]) -> dict[str, Any]:
    """The verb's JSON document."""
    return {"schema": SCHEMA, "rows": [row._asdict() for row in rows]}


def soak(ground: Ground, steps: int, progress: Any = lambda done: None, seed: int = 0) -> FaultRow:
    """So many decode steps under all faults at random; a generation that ends in LaneError is asked for again.

    Alternates between a policy that fetches what it misses and one that prefetches.
    """
    done = lost = injected = errors = 0
    while done < steps:
        part = done // STEPS_EACH
        dice = Dice(RATES, seed + part)
        with ground.attached(dice, ("on-demand-lru", "hetsched")[part % 2]) as handle:
            end = min(steps, done + STEPS_EACH)
            while done < end:
                tokens = min(ground.tokens, end - done)
                try:
                    lost += ground.lost(done, ground.generate(done, tokens), tokens)
                except LaneError:  # the CPU lane failed twice with one expert: promised to be an error
                    errors += 1
                    continue
                handle.engine.check()
                done += tokens
                progress(done)
        injected += dice.count
    outcome = f"{done:,} steps of eager's tokens, {errors} generations asked for again"
    return FaultRow("everything at random", injected, injected if not lost else 0, lost, with_threads(outcome))


def _print(rows: list[FaultRow], steps: int, seconds: float) -> None:
    title = f"Faults injected into a tiny random model on {HARDWARE} (emulated), {steps:,} steps of all at random"
    counts = figures("injected", "survived", "tokens\nlost")
    table = Sheet(Column("fault", prose=True), *counts, Column("outcome", prose=True), title=title)
    for row in rows:
        style = "" if row.survived == row.injected and not row.tokens_lost else "bold red"
        table.add(row.fault, *(f"{n:,}" for n in row[1:4]), row.outcome, style=style)
    console().print(Page(table, f"{seconds:.0f} s; tokens are compared with eager's"))
