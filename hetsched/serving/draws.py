"""Draws: in a batch of many requests, each draws its tokens as it would alone.

transformers' continuous batching has one random generator and one set of logits processors for a whole batch. Here each
request has its own: the same seed gives the same tokens whatever else is in the batch, and processors that look back
(repetition penalties) see the request's own text. The batch itself is greedy: of a row that was drawn, the drawn
token's score alone is left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from ..errors import NO_NUMBERS, InputError


class Draw:
    """How one request's next token follows from its text and scores; transformers' own processors, in its order.

    `seed`: None: the likeliest token. `error`: why there is none; the request's own business.
    """

    def __init__(self, processors: Any, seed: int | None, device: torch.device) -> None:
        self._processors = processors
        self._generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        self.error: Exception | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token by plain scores is next."""
        return not self._processors and self._generator is None

    def token(self, ids: Sequence[int], scores_V: torch.Tensor) -> int:
        """The next token; 0 once something has failed: see `error`."""
        try:
            ids_1T = torch.tensor([ids], device=scores_V.device)
            scores_1V = self._processors(ids_1T, scores_V[None].clone())
            if self._generator is None:
                return int(scores_1V.argmax())
            return int(torch.multinomial(scores_1V.softmax(-1), 1, generator=self._generator))
        except Exception as error:
            self.error = error
            return 0


def draw_of(model: Any, defaults: Any, settings: dict[str, Any], prompt: int, most: int, seed: int) -> Draw:
    """For a prompt of so many tokens and `most` new ones.

    `defaults`: a GenerationConfig, before which `settings` go.
    """
    config = copy.deepcopy(defaults)
    config.update(**settings, max_new_tokens=most, max_length=prompt + most)
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=model.device)
    processors = model._get_logits_processor(config, input_ids_seq_length=prompt, device=model.device)
    return Draw(processors, seed if config.do_sample else None, model.device)


class Draws(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """The batch's one processor: rows of requests with a Draw are drawn, but plain ones whose scores are numbers."""

    supported_kwargs = {"draw": Draw}  # noqa: RUF012 - transformers' own interface
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._rows: list[tuple[Draw, Any] | None] = []  # and the request's state

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Nothing goes through that tensor."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Remember whose rows the next scores are, in this order; a request's text is what it has so far."""
        self._rows = [_row(request.state) for request in requests_with_new_token]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Scores [N, V] of the next tokens."""
        numbers_N = (scores.amax(-1) < math.inf).tolist()
        for i, row in enumerate(self._rows):
            if row is None:
                continue
            draw, state = row
            if not numbers_N[i]:
                token, draw.error = 0, InputError(NO_NUMBERS)
            elif draw.is_plain:
                continue
            else:
                token = draw.token(state.initial_tokens + state.generated_tokens, scores[i])
            scores[i] = -torch.inf
            scores[i, token] = 0.0
        return scores


def _row(state: Any) -> tuple[Draw, Any] | None:
    draw = state.logit_processor_kwargs.get("draw")
    return None if draw is None else (draw, state)
