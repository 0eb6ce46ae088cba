"""Drafts: what proposes the tokens of a verify step, what that takes, and how often it is right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import InputError
from ..machine.profile import HardwareProfile
from ..machine.sizes import parse_bytes
from ..traces.speculative import MOST_DRAFTS, Acceptance

AUTO = -1  # as a number of drafts: chosen before every step
PROMPT_LOOKUP = "prompt-lookup"
USUAL_ACCEPTANCE = 0.7


@dataclass(frozen=True)
class Draft:
    """Who drafts: its bytes on the GPU, which the experts do without, and its seconds a token.

    `token_s` None: as long as reading its bytes from the GPU's memory takes, which is what a dense model's decoding
    comes to. The link and the lanes stand still while it drafts.
    """

    name: str = PROMPT_LOOKUP
    gpu_bytes: int = 0
    token_s: float | None = 0.0

    @classmethod
    def parsed(cls, text: str) -> Draft:
        """From "prompt-lookup", "NAME=BYTES" or "NAME=BYTES,SECONDS". Raises InputError for anything else."""
        if text.lower() == PROMPT_LOOKUP:
            return cls()
        name, equals, figures = text.partition("=")
        size, comma, seconds = figures.partition(",")
        try:
            token_s = float(seconds) if comma else None
        except ValueError:
            token_s = math.nan
        named = equals and name.strip().lower() not in ("", PROMPT_LOOKUP)
        if not named or (token_s is not None and not 0 <= token_s <= 10):
            raise InputError(
                f"draft {text!r:.60} is not understood; write {PROMPT_LOOKUP}, or a model as NAME=BYTES,SECONDS of a "
                "token, for instance qwen3-0.6b=1.2GB,0.002"
            )
        return cls(name.strip(), parse_bytes(size), token_s)

    def seconds(self, machine: HardwareProfile) -> float:
        """Of one drafted token."""
        if self.token_s is not None:
            return self.token_s
        device = machine.gpu or machine.cpu
        return self.gpu_bytes / device.read_bytes_per_s


@dataclass(frozen=True)
class Speculation:
    """How drafts are made and how good they are. `k_max`: the most drafts of a step where the number is chosen."""

    acceptance: Acceptance = field(default_factory=lambda: Acceptance((USUAL_ACCEPTANCE,)))
    draft: Draft = field(default_factory=Draft)
    k_max: int = 8


def check_drafts(drafts: tuple[int, ...]) -> None:
    """Raise InputError for numbers of drafts out of range, or none at all."""
    if not drafts:
        raise InputError("no number of drafts was given; name at least one, for instance 4, or auto")
    for number in drafts:
        if number != AUTO and not 1 <= number <= MOST_DRAFTS:
            raise InputError(f"drafts is {number}; it must lie in 1..{MOST_DRAFTS}, or be auto")


def drafts_text(drafts: int) -> str:
    """For people."""
    return "auto" if drafts == AUTO else str(drafts)
