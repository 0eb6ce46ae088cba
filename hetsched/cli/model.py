"""`hetsched model`: build the demo model."""

from __future__ import annotations

import argparse
import json

from hetsched.demo_model import DEFAULT_HEAL_STEPS, build_demo_model

from .option_types import whole
from .paths import NewFolder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its own verbs."""
    parser = subparsers.add_parser("model", help="build the demo model", description=__doc__)
    verbs = parser.add_subparsers(dest="model_verb", required=True, metavar="VERB")
    text = "make SmolLM2-135M-Instruct into a sparse Mixture-of-Experts checkpoint"
    build = verbs.add_parser("build", help=text, description=text)
    build.add_argument(
        "--out", action=NewFolder, required=True, metavar="DIR", help="folder to write; must be new or empty"
    )
    build.add_argument(
        "--heal-steps",
        type=whole(0),
        default=DEFAULT_HEAL_STEPS,
        metavar="N",
        help="steps of distillation (default: %(default)s)",
    )
    build.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, then print the perplexities beside the dense model's."""
    report = build_demo_model(args.out, heal_steps=args.heal_steps)
    if args.json:
        print(json.dumps({"schema": "hetsched-model/1", "path": str(args.out), **report}))
        return 0
    print(f"wrote {args.out}")
    for key, value in report.items():
        print(f"  {key.replace('_', ' ')}: {value:.2f}")
    return 0
