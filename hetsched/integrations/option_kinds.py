"""Of what kind attach()'s options are; another kind is refused in one line before anything looks into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..steering.file import Steering

# Plug-ins are checked by hetsched.plugins, `context` and `batch` with their limits.
KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "hardware": ((str, Path, HardwareProfile), "a machine's name, a path or a profile"),
    "gpu_memory": ((str, int), "bytes, or a text as '8GiB' or '25%'"),
    "time_scale": ((int, float), "a number"),
    "stand_in_for": ((str, MoEGeometry), "a model's name or its geometry"),
    "cpu_kernel": ((str,), "a kernel's name"),
    "dense_kernel": ((str,), "a kernel's name"),
    "gpu_precision": ((str,), "a precision's name"),
    "steer": ((str, Path, Steering), "a path or what read_steering returns"),
    "learned": ((str, Path), "a path"),
    "log": ((str, Path), "a path"),
    "recalibrate": ((bool,), "True or False"),
    "follow_cache": ((bool,), "True or False"),
}
MOST = 2**63  # of a number; no float is more, or none
_NEVER_NONE = ("recalibrate", "follow_cache")


def check_kinds(given: Mapping[str, Any]) -> None:
    """Raise InputError for the first option of another kind than it has; None is an automatic choice."""
    for name, (kinds, said) in KINDS.items():
        value = given[name]
        if value is None and name not in _NEVER_NONE:
            continue
        is_right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not is_right or (isinstance(value, (int, float)) and not -MOST < value < MOST):
            raise InputError(f"{name} is {value!r:.80}; it takes {said}")
        if isinstance(value, str) and not value.strip():
            raise InputError(f"{name} is empty; it takes {said}")
