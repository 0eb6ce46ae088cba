"""Drafters: guesses at the next tokens, and what guessing took. What they say is verified, so they may be wrong.

Shapes: T tokens of the text so far; sequences come one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from transformers import DynamicCache
from transformers.generation import candidate_generator as theirs

from .draft_sensor import DraftSensor
from .fewer_experts import FewerExperts, fewer_experts

LONGEST_MATCH, SHORTEST_MATCH = 3, 2  # tokens looked up; a single one is found everywhere and says little
Clock = Callable[[], float]


class Text(NamedTuple):
    """What is drafted for: the text so far [1, T], what processes logits, and the verifying model's own arguments."""

    ids_1T: torch.Tensor
    processors: Any
    model_kwargs: dict[str, Any]


class Drafter(Protocol):
    """Whoever guesses. Optional: `draft_token_s`, what a token is expected to take before one was drafted."""

    name: str

    def draft(self, text: Text, most: int) -> tuple[list[int], float]:
        """At most so many next tokens, and the seconds that it took on the machine."""
        ...


class PromptLookup:
    """What followed when the last few tokens stood in the text before: the longest match, the latest of them."""

    name = "prompt-lookup"

    def draft(self, text: Text, most: int) -> tuple[list[int], float]:
        """The continuation of the match; nothing where there is none. Host time, which is real on any machine."""
        begin_s = time.thread_time()
        found = looked_up(text.ids_1T[0].tolist(), most)
        return found, time.thread_time() - begin_s


def looked_up(ids: list[int], most: int) -> list[int]:
    """The continuation of the latest earlier place with the same last tokens, at most so long."""
    for length in range(min(LONGEST_MATCH, len(ids) - 1), SHORTEST_MATCH - 1, -1):
        last = ids[-length:]
        for begin in range(len(ids) - length - 1, -1, -1):
            if ids[begin : begin + length] == last:
                return ids[begin + length : begin + length + most]
    return []


class SelfDraft:
    """The model itself with fewer experts a token, on its own cache, from which what it added is taken off again."""

    name = "self"

    def __init__(
        self,
        model: Any,
        attachment: Any,
        clock: Clock,
        most_experts: int | None = None,
        sensor: DraftSensor | None = None,
    ) -> None:
        """`sensor`: shown every pass."""
        engine = attachment.engine
        residency = attachment.scheduler.residency if engine.gpu_expert_bytes else None
        self._model, self._attachment, self._clock = model, attachment, clock
        self._sensor = sensor
        self._fewer = FewerExperts(most_experts, residency, None if sensor is None else sensor.saw)
        cost = attachment.scheduler.cost
        layer_s = (
            cost.gpu_call_s() + float(cost.gpu_s(1)) if cost.has_gpu else cost.cpu_start_s(1) + float(cost.cpu_s(1))
        )
        self.draft_token_s = cost.geometry.num_layers * (cost.dense_s(1) + layer_s)

    def draft(self, text: Text, most: int) -> tuple[list[int], float]:
        """So many tokens, each by a pass of its own."""
        begin_s, cache, ids_1T, made = self._clock(), text.model_kwargs["past_key_values"], text.ids_1T, 0
        try:
            with fewer_experts(self._attachment, self._fewer):
                for left in range(most, 0, -1):
                    inputs = _next_inputs(self._model, ids_1T, made, text.model_kwargs)
                    made += 1
                    logits_1C = self._model(**inputs).logits[:, -1].float()
                    ids_1T = _with_likeliest(ids_1T, logits_1C, text.processors)
                    if self._sensor is not None:
                        self._sensor.passed(left)
        finally:
            cache.crop(-made)
        return ids_1T[0, text.ids_1T.shape[1] :].tolist(), self._clock() - begin_s


class ModelDraft:
    """Another model of the same vocabulary, with a cache of its own that keeps what was accepted."""

    name = "model"

    def __init__(self, model: Any, clock: Clock | None, token_s: float = 0.0) -> None:
        """`clock`: of the draft model's machine; None where none says, and then a pass takes `token_s`."""
        self._model, self._clock, self.draft_token_s = model, clock, token_s
        self._cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self._cache.activate_past_recording()

    def draft(self, text: Text, most: int) -> tuple[list[int], float]:
        """So many tokens, each by a pass of its own; the first reads what was added to the text since."""
        begin_s = self._clock() if self._clock else 0.0
        ids_1T = text.ids_1T.to(self._model.device)
        known = self._cache.get_seq_length()
        self._cache.crop(-max(0, known - ids_1T.shape[1] + 1))
        for _ in range(most):
            unread_1T = ids_1T[:, self._cache.get_seq_length() :]
            said = self._model(input_ids=unread_1T, past_key_values=self._cache, use_cache=True)
            ids_1T = _with_likeliest(ids_1T, said.logits[:, -1].float(), text.processors)
            self._cache.crop(0)
        spent_s = self._clock() - begin_s if self._clock else most * self.draft_token_s
        return ids_1T[0, text.ids_1T.shape[1] :].tolist(), spent_s


def _with_likeliest(ids_1T: torch.Tensor, logits_1C: torch.Tensor, processors: Any) -> torch.Tensor:
    """The text and the likeliest next token, by logits processed as the verifying model's are."""
    likeliest_1 = processors(ids_1T, logits_1C).argmax(-1)
    return torch.cat([ids_1T, likeliest_1[:, None].to(ids_1T)], dim=-1)


def _next_inputs(model: Any, ids_1T: torch.Tensor, drafted: int, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """What transformers would give the model for one more token, after so many drafted ones."""
    kwargs = theirs._prepare_attention_mask(dict(model_kwargs), ids_1T.shape[1], False)
    kwargs = theirs._prepare_token_type_ids(kwargs, ids_1T.shape[1])
    if (positions := kwargs.get("position_ids")) is not None and drafted:
        kwargs = theirs._prepare_position_ids(kwargs, drafted + positions.shape[-1], False)
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(
        ids_1T, next_sequence_length=1, is_first_iteration=False, **kwargs
    )
    return inputs
