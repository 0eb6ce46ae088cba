"""`hetsched profile`: measure this machine for one model, save the profile, and check what it predicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TimeElapsedColumn

from hetsched.cache import cache_folder
from hetsched.errors import InputError, UnknownNameError
from hetsched.geometry import MoEGeometry
from hetsched.machine import gallery
from hetsched.machine.host_cost import with_host
from hetsched.machine.profile import HardwareProfile
from hetsched.machine.profile_yaml import profile_document, save_profile
from hetsched.machine.store import find_profile, store_profile
from hetsched.machine.units import human
from hetsched.report.documents import print_document
from hetsched.report.profile_view import profile_view
from hetsched.report.tables import Column, Page, Sheet, console, figures

from .option_types import NotedOption, names_list, non_empty_text, refuse_given
from .paths import NameOrPath, OutputFile
from .profile_kernels import show_kernels
from .shapes import model_named

if TYPE_CHECKING:
    from hetsched.measure.check import CheckRow

DEFAULT_MODEL = "qwen3-30b-a3b"
TARGET_ERROR = 0.10  # of the check's median; above it the command fails
CHECK_S = 20.0
HOST_S = 2.0  # what measuring the engine itself is shown to take
DEVICES = ("auto", "cpu", "cuda")
LEAST_WIDTH, MOST_WIDTH = 16, 1 << 17  # of an expert: no model comes near either end
EXAMPLES: tuple[str, ...] = (
    "hetsched profile --model qwen3-30b-a3b",
    "hetsched profile --geometry hidden=2048,ffn=768 --format bf16 --quick --out here.yaml",
    "hetsched profile --check --quick",
    "hetsched profile --kernels --format mxfp4,q8_0",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "measure this machine: expert FFN latency, copies, memory rates; saved and found again automatically"
    parser = subparsers.add_parser("profile", help="measure this machine", description=text)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--model",
        action=NameOrPath,
        metavar="NAME",
        help=f"gallery name, config.json, folder or GGUF file (default: {DEFAULT_MODEL})",
    )
    name = non_empty_text
    what.add_argument("--geometry", type=name, metavar="hidden=N,ffn=N", help="an expert's shape instead of a model")
    text = (
        "what the expert weights are stored as, q4_k or q4_k/q6_k (gate and up, down); with --kernels several, such as "
    )
    text += "mxfp4,q8_0, or all (default: the model's own)"
    parser.add_argument("--format", type=names_list, metavar="A[,B]", help=text)
    parser.add_argument("--dtype", type=name, help=argparse.SUPPRESS)  # --format's old name; with --kernels: our own
    text = "auto, cpu, cuda, or a gallery machine whose GPU to emulate (default: %(default)s)"
    parser.add_argument("--device", type=str.lower, action=NotedOption, default="auto", help=text)
    parser.add_argument("--quick", action="store_true", help="under 20 seconds; less repetition")
    parser.add_argument("-o", "--out", action=OutputFile, metavar="FILE", help="write here instead of the cache folder")
    parser.add_argument(
        "--check", action="store_true", help="compare predictions with measurements between those of the table"
    )
    parser.add_argument("--scaling", action="store_true", help="with --check: other geometries too")
    parser.add_argument(
        "--kernels", action="store_true", help="compare the CPU kernels instead: rate, share of the roof"
    )
    parser.add_argument("--lossy", action="store_true", help="with --kernels: the quantised ones too, with their error")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure or check; 0 done, 1 when a check misses its target."""
    _refuse_nonsense(args)
    geometry = _geometry(args)
    if args.kernels:
        return show_kernels(args, geometry)
    return _check(args, geometry) if args.check else _measure_and_show(args, geometry)


def _refuse_nonsense(args: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together, or a device that is not known."""
    if args.scaling and not args.check:
        raise InputError("--scaling belongs to --check; add --check")
    if args.lossy and not args.kernels:
        raise InputError("--lossy belongs to --kernels; add --kernels")
    if args.format and not args.kernels and (args.dtype or len(args.format) > 1):
        both = "--dtype says so too" if args.dtype else "a profile is of one format"
        raise InputError(f"--format {','.join(args.format)}: {both}; name one, or add --kernels")
    if args.format and args.lossy:
        raise InputError("--lossy quantises anew, --format names what is quantised; ask for one of them")
    if args.check and args.kernels:
        raise InputError("--check and --kernels are two reports; ask for one of them")
    if args.kernels:
        refuse_given(args, ("device", "out"), "belongs to measuring a profile, and --kernels compares on the CPU")
    if args.check:
        refuse_given(args, ("out",), "belongs to measuring a profile, and --check takes the one that is stored")
    if args.device not in DEVICES and args.device not in gallery.machines():
        raise UnknownNameError("device", args.device, [*DEVICES, *gallery.machines()])


def _geometry(args: argparse.Namespace) -> MoEGeometry:
    dtype = args.format[0] if args.format and not args.kernels else args.dtype
    if args.geometry:
        return parse_geometry(args.geometry, dtype or "bf16")
    return model_named(args.model or DEFAULT_MODEL, dtype)


def parse_geometry(text: str, dtype: str) -> MoEGeometry:
    """One expert from 'hidden=2048,ffn=768'. Raises InputError naming what is wrong and the form."""
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    parts = text.count(",") + 1
    if set(pairs) != {"hidden", "ffn"} or parts != 2 or not all(_is_width(value) for value in pairs.values()):
        raise InputError(
            f"--geometry {text!r:.60} is not understood; write hidden=2048,ffn=768 with whole numbers from "
            f"{LEAST_WIDTH} to {MOST_WIDTH}"
        )
    hidden, ffn = int(pairs["hidden"]), int(pairs["ffn"])
    return MoEGeometry(f"{hidden}x{ffn}", 1, 1, 1, hidden, ffn, dtype)


def _is_width(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and LEAST_WIDTH <= int(text) <= MOST_WIDTH


def _measure_and_show(args: argparse.Namespace, geometry: MoEGeometry) -> int:
    profile, path = _measure(args, geometry)
    if args.json:
        print_document(profile_document(profile))
    else:
        console().print(profile_view(profile))
    print(f"profile: {path}", file=sys.stderr)
    return 0


def _measure(args: argparse.Namespace, geometry: MoEGeometry) -> tuple[HardwareProfile, Path]:
    if not args.out:
        cache_folder("profiles")  # where it will be kept: better said now than after the measurement
    to = console(stderr=True)
    to.print(f"measuring for {geometry.name}: hidden {geometry.hidden}, ffn {geometry.ffn}, {geometry.dtype}")
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=to) as bar:
        task = bar.add_task("starting torch", total=None)
        from hetsched.measure.profile_run import has_gpu, measure_profile
        from hetsched.measure.request import Request

        def report(seconds: float, text: str) -> None:
            bar.update(task, advance=seconds, description=text)

        request = Request(geometry, args.device, args.quick, not args.geometry, report=report)
        devices = 2 if args.device in ("auto", "cuda") and has_gpu(args.device) else 1
        bar.update(task, total=request.budget_s * devices + HOST_S)
        profile = measure_profile(request)
        bar.update(task, completed=request.budget_s * devices, description="the engine itself")
        from hetsched.bench.host_cost import measure_host

        profile = with_host(profile, measure_host())
        bar.update(task, completed=request.budget_s * devices + HOST_S, description="measured")
    if args.out:
        save_profile(profile, args.out)
        return profile, args.out
    return profile, store_profile(profile)


def _check(args: argparse.Namespace, geometry: MoEGeometry) -> int:
    profile = _profile_to_check(args, geometry)
    with console(stderr=True).status("starting torch") as status:
        import torch

        from hetsched.measure.check import WORST_ERROR, check_profile, check_scaling, median_error, speed, worst_error

        with torch.inference_mode():
            budget_s = CHECK_S / 4 if args.quick else CHECK_S
            rows = check_profile(profile, geometry, budget_s, status.update)
            scaled = check_scaling(profile, geometry.dtype, budget_s, status.update) if args.scaling else []
    error, worst = median_error(rows), worst_error(rows)
    if args.json:
        errors = {"median_error": error, "worst_error": worst, "speed": speed(rows)}
        print_document(_check_document(rows + scaled, errors))
    else:
        summary = [f"median error {error:.1%}, target {TARGET_ERROR:.0%}; worst {worst:.1%}, target {WORST_ERROR:.0%}"]
        if error > TARGET_ERROR:
            summary.append(f"the machine is {speed(rows):.2f} times as fast as when it was profiled; was it busy?")
        summary += [f"median error of scaling to other geometries {median_error(scaled):.1%}"] if scaled else []
        console().print(Page(_check_table(rows + scaled), *summary))
    return 0 if error <= TARGET_ERROR and worst <= WORST_ERROR else 1


def _profile_to_check(args: argparse.Namespace, geometry: MoEGeometry) -> HardwareProfile:
    """The cached profile that would be used, when it is this machine's and this geometry's; else a fresh one."""
    from hetsched.machine.fingerprint import fingerprint

    found = find_profile(fingerprint(geometry, device=args.device))
    profile, path = _measure(args, geometry) if found is None or found.warnings else (found.profile, found.path)
    print(f"profile: {path}, measured on {profile.date}", file=sys.stderr)
    return profile


def _check_document(rows: list[CheckRow], errors: dict[str, float]) -> dict[str, Any]:
    return {"schema": "hetsched-check/1", "rows": [row._asdict() for row in rows], **errors}


def _check_table(rows: list[CheckRow]) -> Sheet:
    table = Sheet("device", Column("op", prose=True), *figures("tokens", "predicted", "measured", "error"))
    for row in rows:
        seconds = human(row.predicted_s, "s"), human(row.measured_s, "s")
        table.add(row.device, row.op, str(row.n), *seconds, f"{row.error:+.1%}")
    return table
