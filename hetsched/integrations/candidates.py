"""Candidates: transformers' candidate generator whose drafts are as many as the controller says.

It sees every step from both sides: asked for drafts before it, told after it how many stayed. What happened in between
is read from the machine's own clock and from the engine's counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from transformers.generation.candidate_generator import CandidateGenerator

from ..speculation.controller import Controller
from ..stats import RunStats
from ..types import FloatArray
from .drafters import Clock, Drafter, Text

OnDraft = Callable[[list[int]], None]


class Candidates(CandidateGenerator):  # type: ignore[misc]
    """One generation's drafts. The first step, which reads the prompt, has none and is not counted.

    `told` is called with the drafted ids before they are verified, `expect` with P(each token of the step stays in the
    text) and `foresee` with the step's ids, drafts behind the token before them: by these an engine's forecaster learns
    of them.
    """

    requires_model_outputs = True  # else the cache would not be handed over
    model_kwargs_overrides: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        drafter: Drafter,
        controller: Controller,
        clock: Clock,
        stats: RunStats,
        *,
        processors: Any,
        max_length: int,
        eos_1: torch.Tensor | None,
        told: OnDraft = lambda ids: None,
        expect: Callable[[FloatArray], None] = lambda stay_T: None,
        foresee: Callable[[list[int]], None] = lambda ids: None,
    ) -> None:
        self._drafter, self._controller = drafter, controller
        self._clock, self._stats, self._told, self._expect = clock, stats, told, expect
        self._foresee = foresee
        self._processors, self._max_length = processors, max_length
        self._eos = set() if eos_1 is None else set(eos_1.reshape(-1).tolist())
        self._under_way: tuple[int, int, float] | None = None  # asked, drafted, seconds of drafting
        self._begin_s = 0.0
        self._counts = (0, 0, 0)

    def get_candidates(
        self, input_ids: torch.Tensor, *, model_kwargs: dict[str, Any], is_first_iteration: bool, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """The text with what is drafted after it, to be verified."""
        if is_first_iteration:
            return input_ids, None
        begin_s = time.thread_time()
        asked = min(self._controller.choose(), max(0, self._max_length - input_ids.shape[1] - 1))
        drafted: list[int] = []
        draft_s = time.thread_time() - begin_s  # the decision takes its time, too
        if asked:
            drafted, drafting_s = self._drafter.draft(Text(input_ids, self._processors, model_kwargs), asked)
            draft_s += drafting_s
            ends = [place for place, token in enumerate(drafted) if token in self._eos]
            drafted = drafted[: ends[0]] if ends else drafted
        if drafted:
            self._told(drafted)
            self._expect(self._controller.stay_T(len(drafted)))
            self._foresee([int(input_ids[0, -1]), *drafted])
            input_ids = torch.cat([input_ids, input_ids.new_tensor([drafted])], dim=-1)
        self._under_way = asked, len(drafted), draft_s
        self._begin_s, self._counts = self._clock(), self._counted()
        return input_ids, None

    def update_candidate_strategy(self, input_ids: torch.Tensor, scores: torch.Tensor, num_matches: int) -> None:
        """So many drafts stayed."""
        if self._under_way is None:
            return
        (asked, drafted, draft_s), self._under_way = self._under_way, None
        layers, active, hits = (now - then for now, then in zip(self._counted(), self._counts, strict=True))
        if layers:
            self._controller.show(1 + drafted, active / layers, hits / layers)
        self._controller.observe(drafted, int(num_matches), self._clock() - self._begin_s, draft_s, asked)

    def _counted(self) -> tuple[int, int, int]:
        return self._stats.layers, self._stats.active, self._stats.hits
