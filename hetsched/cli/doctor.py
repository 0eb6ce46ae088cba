"""`hetsched doctor`: what is here, what each missing piece costs, and the command that adds it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from hetsched.measure.inventory import Item, inventory, is_healthy
from hetsched.report.profile_view import PLAIN

MARKS = {True: "[green]ok[/]", False: "[yellow]missing[/]", None: ""}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "what is here, what each missing piece costs, and the command that adds it"
    parser = subparsers.add_parser("doctor", help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Report; 0 when the main job can run, 1 when not."""
    items = inventory()
    ok = is_healthy(items)
    if args.json:
        print(json.dumps({"schema": "hetsched-doctor/1", "ok": ok, "items": [asdict(item) for item in items]}))
    else:
        verdict = "hetsched can run models here." if ok else "hetsched cannot run models here; see 'missing' above."
        Console().print(_table(items), verdict)
    return 0 if ok else 1


def _table(items: list[Item]) -> Table:
    table = Table("", "", "found", "without it", **PLAIN)
    for item in items:
        lack = item.cost if item.ok is False else ""
        fix = f"\n[bold]{item.fix}[/]" if item.ok is False and item.fix else ""
        mark = "[red]missing[/]" if item.ok is False and item.needed else MARKS[item.ok]
        table.add_row(item.name, mark, item.found, lack + fix)
    return table
