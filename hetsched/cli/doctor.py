"""`hetsched doctor`: what is here, what each missing piece costs, and the command that adds it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.text import Text

from hetsched.measure.inventory import Item, inventory, is_healthy
from hetsched.report.documents import print_document
from hetsched.report.tables import Column, Page, Sheet, console

EXAMPLES: tuple[str, ...] = (
    "hetsched doctor",
    "hetsched doctor --json",
)


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
        print_document({"schema": "hetsched-doctor/1", "ok": ok, "items": [asdict(item) for item in items]})
    else:
        verdict = "hetsched can run models here." if ok else "hetsched cannot run models here; see 'missing' above."
        console().print(Page(_table(items), verdict))
    return 0 if ok else 1


def _table(items: list[Item]) -> Sheet:
    table = Sheet("", "", Column("", prose=True))
    for item in items:
        found = Text(item.found)
        if item.ok is False:
            found.append(f"; {item.cost}" if item.cost else "")
            found.append(f"\n{item.fix}" if item.fix else "", style="bold")
        table.add(item.name, _mark(item), found)
    return table


def _mark(item: Item) -> Text:
    if item.ok is None:
        return Text()
    return Text("ok", style="green") if item.ok else Text("missing", style="red" if item.needed else "yellow")
