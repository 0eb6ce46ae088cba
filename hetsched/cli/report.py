"""`hetsched report`: a run log or a comparison as one HTML file, to read, print and send."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import check_distinct, check_file, replacing
from ..machine.sizes import show_bytes
from ..reading import open_regular, read_json
from .paths import InputFile, OutputFile

if TYPE_CHECKING:
    from ..report.web.page import Page

EXAMPLES: tuple[str, ...] = (
    "hetsched report run.jsonl",
    "hetsched report compare.json -o compare.html",
)
TAKEN = "a run log (run --log FILE, simulate --log FILE) or a comparison (compare --json > FILE)"
FIRST_BYTES = 1 << 20  # of a file, in which its kind shows


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "write a run log or a comparison as one HTML page: figures, tables, nothing loaded from elsewhere"
    parser = subparsers.add_parser("report", help=text, description=text)
    parser.add_argument("source", action=InputFile, metavar="RUN.jsonl|compare.json", help=TAKEN)
    text = "page to write (default: beside the source, ending in .html)"
    parser.add_argument("-o", "--out", action=OutputFile, metavar="FILE", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, draw, write; 0."""
    open_regular(args.source, TAKEN).close()
    target: Path = args.out or args.source.with_suffix(".html")
    check_distinct([target], [args.source])
    check_file(target)
    html = _page(args.source).html().encode()
    with replacing(target) as temporary:
        temporary.write_bytes(html)
    print(f"written: {target}, {show_bytes(len(html))}")
    return 0


def _page(source: Path) -> Page:
    from ..replay.read_back import comparison_from
    from ..replay.result import SCHEMA as COMPARISON
    from ..report.web.compare_page import compare_page
    from ..report.web.run_page import run_page
    from ..runlog import SCHEMA as RUN
    from ..runlog import read_run

    schema = _schema_of_first_line(source)
    if schema == RUN:
        return run_page(read_run(source))
    document = read_json(source, TAKEN, f"give {TAKEN}")
    if isinstance(document, dict) and document.get("schema") == COMPARISON:
        return compare_page(comparison_from(document))
    raise InputError(f"{source} is neither of what a report is made of: give {TAKEN}")


def _schema_of_first_line(source: Path) -> Any:
    """The schema that a JSON object in the first line names, if there is one."""
    with open_regular(source, TAKEN) as file:
        line = file.readline(FIRST_BYTES)
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return head.get("schema") if isinstance(head, dict) else None
