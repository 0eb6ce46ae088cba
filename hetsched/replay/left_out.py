"""What a replay leaves out of a step: the output head, attention over the text so far, and layers without experts.

It is the same for every strategy, so it is added to what a replay came to: decisions, hits and bytes are those of the
layers with experts. No copy goes on meanwhile, which makes less of prefetches than they are worth.

Shapes: S steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cost.model import CostModel
from ..estimate import Subject
from ..estimate.decode import rest_times
from ..machine.profile import HardwareProfile
from ..types import IntArray, Phase
from .steps import Steps


class LeftOut:
    """Seconds of a step on one machine, by its tokens and those of the text before them; each is remembered."""

    def __init__(self, subject: Subject, machine: HardwareProfile) -> None:
        self._subject, self._machine = subject, machine
        self._cost = CostModel(machine, subject.geometry)
        self._known_s: dict[tuple[int, int], float] = {}

    def step_s(self, tokens: int, context: int) -> float:
        """Seconds of a step of so many tokens after `context` others."""
        asked = tokens, context
        if asked not in self._known_s:
            times = rest_times(self._subject, self._machine, tokens, context)
            replayed_s = self._subject.geometry.num_layers * self._cost.dense_s(tokens)
            self._known_s[asked] = times.attention_s + times.head_s + max(0.0, times.dense_s - replayed_s)
        return self._known_s[asked]


def decoding_s(spans: Sequence[tuple[int, LeftOut]], steps: Steps, context_S: IntArray) -> float:
    """Seconds of all steps but prefill. `spans`: from which step on which machine is true."""
    ends = [*(begin for begin, _ in spans[1:]), steps.count]
    columns = list(zip((steps.end_S - steps.begin_S).tolist(), context_S.tolist(), steps.phase_S.tolist(), strict=True))
    return sum(
        left_out.step_s(tokens, context)
        for (begin, left_out), end in zip(spans, ends, strict=True)
        for tokens, context, phase in columns[begin:end]
        if phase != Phase.PREFILL
    )
