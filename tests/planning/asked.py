"""Questions for tests of plans: gallery's models on gallery's machines, changed where a test says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hetsched.cli.plan import asked_model
from hetsched.estimate import ENGINES
from hetsched.machine import gallery
from hetsched.machine.profile import HardwareProfile
from hetsched.planning.question import Question

GIB = 1 << 30


def machine(gpu_gib: float | None = None, name: str = "rtx-4060-laptop-8gb") -> HardwareProfile:
    """A gallery's machine, with so much GPU memory."""
    profile = gallery.machine(name)
    if gpu_gib is None:
        return profile
    assert profile.gpu is not None
    return replace(profile, gpu=replace(profile.gpu, capacity_bytes=int(gpu_gib * GIB)))


def question(model: str = "qwen3-30b-a3b", engine: str = "hetsched", **given: Any) -> Question:
    """Qwen3-30B-A3B in Q4_K_M on a laptop, unless something else is given."""
    usual = {"format": "q4_k_m" if model == "qwen3-30b-a3b" else None, "profile": machine()}
    return Question(asked_model(model), engine=ENGINES[engine], **{**usual, **given})
