"""Cases of the guard in an engine: a tiny random model on an emulated machine that is not as its profile says.

Seconds are emulated: decisions are charged a constant, the host between them what it takes here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..accelerators.emulated.device import EmulatedAccelerator
from ..integrations.transformers import attach
from ..machine import gallery
from ..machine.drift import Drift, slowed
from ..replay.simulator import ConstantClock
from ..testing.models import tiny_moe
from .guard_cases import CHARGE_S, LIE, row_of

HARDWARE = "rtx-4060-laptop-8gb"
STAND_IN = "gpt-oss-20b"  # its layers' seconds: the tiny model's own would be shorter than any decision
GPU_MEMORY = "30%"
SIMPLE = ("cpu-only", "static-frequency", "layer-split", "on-demand-lru")
PROMPT_TOKENS = 8


class Emulated(NamedTuple):
    """What the scheduler believes, as factors on the true seconds, and how the machine drifts."""

    name: str
    believed: dict[str, float]
    drifts: tuple[Drift, ...]


def emulated_cases(steps: int) -> list[Emulated]:
    """A subset of the simulated ones."""
    found = []
    for part, factor, said in (("cpu", LIE, "slower"), ("cpu", 1 / LIE, "faster"), ("link", 1 / LIE, "faster")):
        name = f"{part} believed {LIE:g} times {said} (emulated)"
        back = Drift(cpu=1 / factor) if part == "cpu" else Drift(link=1 / factor)  # the believed seconds made true
        found.append(Emulated(name, {part: factor}, (back,)))
    lost = (Drift(), Drift(from_step=steps // 2, link=LIE))
    return [*found, Emulated("link loses nine tenths midway (emulated)", {}, lost)]


def emulated_rows(steps: int) -> list[dict[str, Any]]:
    """All of them."""
    return [emulated_row(case, steps) for case in emulated_cases(steps)]


def emulated_row(case: Emulated, steps: int) -> dict[str, Any]:
    """Generate so many tokens with every strategy: a row as the simulated cases have it."""
    simple_s = {name: _generated(case, name, steps)[0] for name in SIMPLE}
    own_s, moves = _generated(case, "hetsched", steps)
    return row_of(case.name, simple_s, own_s, moves)


def _generated(case: Emulated, policy: str, steps: int) -> tuple[float, list[Any]]:
    """Emulated seconds of a generation, and the moves."""
    model, machine = tiny_moe(), slowed(gallery.machine(HARDWARE), **case.believed)
    accelerator = EmulatedAccelerator(machine, time_scale=1.0, drifts=case.drifts)
    prompt = torch.randint(3, 120, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {
        "gpu_memory": GPU_MEMORY,
        "accelerator": accelerator,
        "policy": policy,
        "stand_in_for": STAND_IN,
    }
    with attach(model, hardware=machine, **given) as handle:
        handle.scheduler.clock = ConstantClock(CHARGE_S)
        mask = torch.ones_like(prompt)
        stop = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        model.generate(prompt, attention_mask=mask, max_new_tokens=steps, **stop)
        stats = handle.scheduler.stats
        return stats.dense_s + stats.decision_s + stats.makespan_s, stats.moves
