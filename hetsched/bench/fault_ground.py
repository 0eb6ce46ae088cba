"""Where faults are injected: a tiny random model on an emulated machine, and the tokens that eager generates."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ..accelerators.base import Accelerator
from ..accelerators.emulated.device import EmulatedAccelerator
from ..engine.engine import Engine
from ..engine.recovery import Patience
from ..integrations.attachment import Attachment
from ..integrations.transformers import attach
from ..machine import gallery
from ..testing.broken_plugins import BrokenPolicy, BrokenSolver
from ..testing.faults import COPY_HANGS, Dice, InterruptAt, faulty
from ..testing.models import tiny_moe

HARDWARE = "rtx-4060-laptop-8gb"
STAND_IN = "gpt-oss-20b"  # its layers' seconds: the tiny model's own would be shorter than any decision
GPU_MEMORY = "30%"
PROMPTS, LENGTH = 6, 12
IMPATIENT = Patience(times=10.0, slack_s=0.1)  # a hung copy is to cost the benchmark a tenth of a second


class FaultRow(NamedTuple):
    """One fault: how often it was injected, how often generation went on with eager's tokens, and what is promised."""

    fault: str
    injected: int
    survived: int
    tokens_lost: int
    outcome: str


class Ground:
    """The model, a few prompts, and what eager makes of each; `tokens`: the most that are asked for."""

    def __init__(self, tokens: int = 50) -> None:
        self.model = tiny_moe()
        random = torch.Generator().manual_seed(1)
        self._prompts = torch.randint(3, 120, (PROMPTS, 1, LENGTH), generator=random)
        self.tokens = tokens
        self._expected = [self.generate(i) for i in range(PROMPTS)]

    def generate(self, i: int, tokens: int | None = None) -> list[int]:
        """New tokens of prompt `i`, greedy, with whatever runs the experts now."""
        prompt = self._prompts[i % PROMPTS]
        out = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens or self.tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        new: list[int] = out[0, LENGTH:].tolist()
        return new

    def lost(self, i: int, got: list[int], tokens: int | None = None) -> int:
        """Tokens of `got` that are not eager's, or are not there."""
        expected = self._expected[i % PROMPTS][: tokens or self.tokens]
        return sum(a != b for a, b in zip(expected, got, strict=False)) + abs(len(expected) - len(got))

    @contextmanager
    def attached(
        self,
        dice: Dice,
        policy: str = "on-demand-lru",
        before_call: InterruptAt | None = None,
        inner: Accelerator | None = None,
        gpu_memory: str | None = GPU_MEMORY,
    ) -> Iterator[Attachment]:
        """The model attached to an accelerator, a policy and a solver that fail by the dice."""
        machine, broken = gallery.machine(HARDWARE), BrokenPolicy(policy, dice)
        accelerator = faulty(inner or EmulatedAccelerator(machine, time_scale=1.0), dice, before_call)
        with attach(
            self.model,
            hardware=machine,
            gpu_memory=gpu_memory,
            accelerator=accelerator,
            policy=broken,
            solver=BrokenSolver("exact", dice) if broken.traits.uses_solver else "exact",
            stand_in_for=STAND_IN,
        ) as handle:
            assert isinstance(handle.engine, Engine)
            if dice.may_throw(COPY_HANGS):
                handle.engine.be_patient(IMPATIENT)
            yield handle

    def row(
        self, fault: str, outcome: str, rates: Mapping[str, float], policy: str = "on-demand-lru", times: int = 2
    ) -> FaultRow:
        """Generate under faults at these rates; they are survived where no token is lost, and slots add up."""
        dice, lost = Dice(rates), 0
        with self.attached(dice, policy) as handle:
            for i in range(times):
                try:
                    lost += self.lost(i, self.generate(i))
                except RuntimeError:
                    lost += self.tokens
                handle.engine.check()
        return FaultRow(fault, dice.count, dice.count if not lost else 0, lost, with_threads(outcome))


def with_threads(outcome: str) -> str:
    """The outcome, and what was left running that should not be."""
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("hetsched-")]
    return f"{outcome}; THREADS LEFT: {', '.join(left)}" if left else outcome
