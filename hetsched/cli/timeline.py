"""`hetsched timeline`: a run log as a trace that Perfetto opens."""

from __future__ import annotations

import argparse

from hetsched.report.documents import print_document

from .paths import InputFile, OutputFile

SCHEMA = "hetsched-timeline/1"
EXAMPLES = (
    "hetsched timeline run.jsonl -o trace.json",
    "hetsched timeline run.jsonl -o trace.json --json",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "draw a run log as a Chrome trace: open it at ui.perfetto.dev or chrome://tracing"
    parser = subparsers.add_parser("timeline", help=text, description=text)
    text = "run log, of 'hetsched run --log' or 'hetsched simulate --log'"
    parser.add_argument("log", action=InputFile, metavar="RUN.jsonl", help=text)
    parser.add_argument("-o", "--out", action=OutputFile, required=True, metavar="FILE", help="trace to write (.json)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the trace and say so; 0."""
    from hetsched.runlog.chrome_trace import TRACKS, write_trace

    events = write_trace(args.log, args.out)
    if args.json:
        print_document({"schema": SCHEMA, "out": str(args.out), "events": events, "tracks": TRACKS})
    else:
        print(f"{args.out}: {events:,} events in {len(TRACKS)} tracks; open it at https://ui.perfetto.dev")
    return 0
