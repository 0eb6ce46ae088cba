"""`hetsched profiles`: list, show, validate, derive and compare machine profiles and model geometries."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hetsched.errors import InputError, UnknownNameError
from hetsched.machine import gallery
from hetsched.machine.datasheet import derive
from hetsched.machine.diff import Difference, differences
from hetsched.machine.model_yaml import SCHEMA as MODEL_SCHEMA
from hetsched.machine.model_yaml import load_model_card
from hetsched.machine.profile_yaml import load_profile, profile_document, save_profile
from hetsched.machine.store import stored
from hetsched.machine.yaml_lines import FILE_BYTES, FileError, Problem, dump_yaml
from hetsched.reading import read_text_file
from hetsched.report.documents import print_document
from hetsched.report.profile_view import machine_table, model_table, profile_view
from hetsched.report.tables import Column, Page, Sheet, console

from .model_needs import show_needs
from .option_types import at_least_one, names_list, non_empty_text
from .paths import InputFile, NameOrPath, OutputText, PlotFile
from .shapes import model_named

DRAWN_MODEL = "qwen3-30b-a3b"
EXAMPLES: tuple[str, ...] = (
    "hetsched profiles list",
    "hetsched profiles show gpt-oss-20b --format bf16,mxfp4 --context 32768",
    "hetsched profiles show t4 --plot t4.svg --model gpt-oss-20b",
    "hetsched profiles derive rtx-4090 --out my-4090.yaml",
    "hetsched profiles validate my-4090.yaml",
    "hetsched profiles diff rtx-4090 rtx-3090-24gb",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its own verbs."""
    text = "list, show, validate, derive and compare profiles"
    parser = subparsers.add_parser("profiles", help=text, description=text)
    verbs = parser.add_subparsers(dest="profiles_verb", required=True, metavar="VERB")
    _verb(verbs, "list", _list, "machines and models that come with hetsched, and profiles measured here")
    show = _verb(verbs, "show", _show, "one machine or model, by name or path")
    show.add_argument("name", action=NameOrPath, help="gallery name, or path of a profile or model file")
    text = "draw the latency curves into FILE (.png, .svg or .pdf)"
    show.add_argument("--plot", action=PlotFile, metavar="FILE", help=text)
    text = f"with --plot: model whose expert is drawn (default: {DRAWN_MODEL})"
    show.add_argument("--model", type=non_empty_text, metavar="NAME", help=text)
    text = "of a model: what it needs with its experts in these formats, such as bf16,mxfp4,q4_k/q6_k"
    show.add_argument("--format", type=names_list, metavar="A[,B]", help=text)
    text = "with --format: tokens that the KV cache has room for (default: 4096)"
    show.add_argument("--context", type=at_least_one, metavar="N", help=text)
    validate = _verb(verbs, "validate", _validate, "check files against the schema; all problems by key and line")
    validate.add_argument("files", nargs="+", action=InputFile, metavar="FILE")
    make = _verb(verbs, "derive", _derive, "apply the datasheet rule to the datasheet in a profile")
    make.add_argument(
        "name", action=NameOrPath, help="gallery name, or path of a profile file with a 'datasheet' section"
    )
    text = "where to write the profile (default: -, standard output)"
    make.add_argument("-o", "--out", action=OutputText, metavar="FILE", help=text)
    diff = _verb(verbs, "diff", _diff, "what differs between two profiles")
    diff.add_argument("first", type=non_empty_text, help="gallery name, or path of a profile file")
    diff.add_argument("second", type=non_empty_text, help="the other one")


def run(args: argparse.Namespace) -> int:
    """Run the chosen verb; 0 done, 1 when a file does not validate or profiles differ."""
    return int(args.profiles_run(args))


def _verb(verbs: Any, name: str, action: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run, profiles_run=action)
    return parser


def _list(args: argparse.Namespace) -> int:
    machines = [gallery.machine(name) for name in gallery.machines()]
    cards = [gallery.model_card(name) for name in gallery.models()]
    measured = stored()
    for warning in measured.warnings:
        print(f"hetsched: {warning}", file=sys.stderr)
    if args.json:
        document = {
            "schema": "hetsched-profiles/1",
            "machines": [{"name": m.name, "title": m.title, "source": m.source.value} for m in machines],
            "models": [{"name": c.geometry.name, "repository": c.repository, "dtypes": c.dtypes} for c in cards],
            "measured": [{"path": str(path), "name": p.name, "date": p.date} for path, p in measured.profiles],
        }
        print_document(document)
        return 0
    table = Sheet(Column("", prose=True), "", title="Measured here")
    for path, profile in measured.profiles:
        table.add(str(path), profile.date)
    rest = table if measured.profiles else "Measured here: none; run 'hetsched profile'"
    console().print(Page(machine_table(machines), "", model_table(cards), "", rest))
    return 0


def _show(args: argparse.Namespace) -> int:
    if args.model is not None and not args.plot:
        raise InputError(f"--model {args.model} says whose expert --plot draws; add --plot FILE, or drop it")
    if args.context is not None and not args.format:
        raise InputError("--context belongs to --format; add --format, or drop it")
    if args.format:
        if args.plot:
            raise InputError("--format shows what a model needs, and --plot draws machines; ask for one of them")
        return show_needs(args)
    is_named = args.name.lower() in gallery.models()
    if is_named or _schema_of(args.name) == MODEL_SCHEMA:
        card = gallery.model_card(args.name) if is_named else load_model_card(args.name)
        if args.plot:
            raise InputError(
                f"--plot draws machines, and {args.name} is a model; show a machine with --model {args.name}"
            )
        if args.json:
            print_document({"schema": MODEL_SCHEMA, **card.geometry.__dict__, "repository": card.repository})
            return 0
        console().print(Page(model_table([card], variants=True)))
        return 0
    if args.name.lower() not in gallery.machines() and not Path(args.name).suffix:
        raise UnknownNameError("machine or model", args.name, [*gallery.machines(), *gallery.models()])
    profile = gallery.machine(args.name)
    if args.plot:
        from hetsched.report.profile_plot import plot_profile

        plot_profile(profile, model_named(args.model or DRAWN_MODEL), args.plot)
        print(f"wrote {args.plot}", file=sys.stderr)
    if args.json:
        print_document(profile_document(profile))
        return 0
    console().print(profile_view(profile))
    return 0


def _validate(args: argparse.Namespace) -> int:
    found = {path: _problems(path) for path in args.files}
    if args.json:
        rows = {str(path): [problem._asdict() for problem in problems] for path, problems in found.items()}
        print_document({"schema": "hetsched-validate/1", "files": rows, "ok": not any(found.values())})
    else:
        for path, problems in found.items():
            print(f"{path}: {'; '.join(map(str, problems)) or 'ok'}" if len(problems) < 2 else f"{path}:")
            for problem in problems if len(problems) > 1 else ():
                print(f"  {problem}")
    return 1 if any(found.values()) else 0


def _problems(path: Path) -> tuple[Problem, ...]:
    try:
        if _schema_of(path) == MODEL_SCHEMA:
            load_model_card(path)
        else:
            load_profile(path)
    except FileError as error:
        return error.problems
    return ()


def _schema_of(name: str | Path) -> str:
    """The schema that a file claims in its first lines; empty when there is no such file."""
    path = Path(name)
    head = read_text_file(path, "a YAML file", FILE_BYTES)[:2000] if path.is_file() else ""
    return next((line.partition(":")[2].strip() for line in head.splitlines() if line.startswith("schema:")), "")


def _derive(args: argparse.Namespace) -> int:
    given = gallery.machine(args.name)
    if given.datasheet is None:
        raise InputError(
            f"{args.name} has no 'datasheet' section to derive from; see profiles/README.md for its fields"
        )
    profile = derive(given.datasheet, given.name, given.date, given.title, given.tool)
    if args.out:
        save_profile(profile, args.out)
        print(f"wrote {args.out}", file=sys.stderr)
    if args.json:
        print_document(profile_document(profile))
        return 0
    if not args.out:
        sys.stdout.write(dump_yaml(profile_document(profile)))
    return 0


def _diff(args: argparse.Namespace) -> int:
    found = differences(gallery.machine(args.first), gallery.machine(args.second))
    if args.json:
        print_document({"schema": "hetsched-diff/1", "differences": [row._asdict() for row in found]})
    else:
        console().print(Page(_diff_table(args, found)) if found else "no difference")
    return 1 if found else 0


def _diff_table(args: argparse.Namespace, found: list[Difference]) -> Sheet:
    sides = (Column(args.first, prose=True), Column(args.second, prose=True))
    table = Sheet("key", *sides, Column("ratio", right=True, drop=1))
    for row in found:
        table.add(row.key, row.first, row.second, "" if row.ratio is None else f"{row.ratio:.2f}")
    return table
