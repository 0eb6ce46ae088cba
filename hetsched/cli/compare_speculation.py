"""`hetsched compare --speculation`: systems that verify drafts beside those that decode token by token."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError

from .drafting import speculation_from
from .option_types import names_list
from .replaying import BOUND_WINDOWS
from .shapes import config_named, model_or_name, say_if_estimate

if TYPE_CHECKING:
    from collections.abc import Callable

    from hetsched.machine.profile import HardwareProfile
    from hetsched.replay import SpeculationComparison

UNUSED = {
    "recalibrate": (True, "is for profiles that are wrong, and --speculation replays with true ones"),
    "watch": (None, "is for profiles that are wrong, and --speculation replays with true ones"),
    "bound_windows": (BOUND_WINDOWS, "bounds what is decoded token by token; --speculation has a roof instead"),
    "verify": (0, "makes windows of tokens, and --speculation verify steps of its own"),
    "replay": ("auto", "says which steps are replayed, and --speculation makes its own"),
    "true_hardware": (None, "is for strategies that believe a wrong profile, which --speculation does not compare"),
    "plot": (None, "draws strategies over memory; --speculation has tables, --json and --csv"),
}
OPTIONS = {"recalibrate": "--no-recalibration", "watch": "--guard"}  # where they are named otherwise


def compared_speculation(
    args: argparse.Namespace,
    settings: dict[str, Any],
    hardware: list[HardwareProfile],
    progress: Callable[[float, int], None],
) -> SpeculationComparison:
    """The comparison that the options ask for. `--format` may name several precisions."""
    from hetsched.replay import compare_speculation

    for name, (usual, reason) in UNUSED.items():
        if getattr(args, name) != usual:
            option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
            raise InputError(f"{option} {reason}; drop one of the two")
    speculation, drafts = speculation_from(args)
    dtypes = _dtypes(args.dtype)
    for dtype in dtypes:
        say_if_estimate(dtype)
    own = ("max_tokens", "solver", "forecaster", "decision_s", "host_s")
    return compare_speculation(
        args.trace,
        model_or_name(args.model)[0],
        hardware=hardware,
        gpu_fractions=args.gpu_fraction,
        drafts=drafts,
        speculation=speculation,
        strategies=args.strategies,
        dtypes=dtypes,
        config=config_named(args.model),
        fit_sequences=args.fit_sequences,
        fit_trace=args.fit_trace,
        jobs=args.jobs,
        ray=args.ray,
        progress=progress,
        **{name: settings[name] for name in own},
    )


def _dtypes(text: str | None) -> list[str | None]:
    try:
        return [None] if text is None else list(names_list(text))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--format: {error}") from None
