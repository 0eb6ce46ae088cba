"""Studio: how this server's model answers: how long, how it draws, and where its texts end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from .api_error import ApiError
from .asked import Asked
from .desk import Job
from .draws import draw_of


class Studio:
    """`settings`: before the checkpoint's generation_config.json, and after a request's own; `seed`: where a request
    names none (None: any). `context`: tokens of a prompt and its answer; `most`: new ones where a request says nothing.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any], seed: int | None, context: int, most: int) -> None:
        self._model, self._seed, self._context, self._most = model, seed, context, most
        self._defaults, _ = model._prepare_generation_config(None, **{**settings, "num_beams": 1})
        self._eos = _ids(self._defaults.eos_token_id)

    def job(self, asked: Asked, ids: Sequence[int]) -> Job:
        """What goes to the batch. Raises ApiError where it is longer than the context."""
        room = self._context - len(ids)
        if room < (asked.most or 1):
            wanted = f"{len(ids)} tokens" + (f" and max_tokens {asked.most}" if asked.most else "")
            text = f"the prompt has {wanted}, and there is room for {self._context} together; send less"
            raise ApiError(400, text, param="max_tokens" if room > 0 else None, code="context_length_exceeded")
        most = asked.most or min(self._most, room)
        seed = next(s for s in (asked.seed, self._seed, secrets.randbits(63)) if s is not None)
        draw = draw_of(self._model, self._defaults, asked.sampling, len(ids), most, seed)
        return Job(ids, most, self._eos, draw)


def _ids(eos: int | list[int] | None) -> list[int]:
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
