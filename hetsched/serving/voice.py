"""Voice: the model's tokenizer, from what is asked to token ids, and from tokens to text."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .api_error import ApiError
from .asked import Message


class Voice:
    """Long texts are encoded in a thread, one at a time: a tokenizer may not be used twice at once.

    `words`: ids that the model knows.
    """

    def __init__(self, tokenizer: Any, words: int) -> None:
        self._encoder, self._decoder = tokenizer, copy.deepcopy(tokenizer)
        self._words = words
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")

    async def ids(self, prompt: list[Message] | str | list[int]) -> list[int]:
        """Token ids of a chat up to where the model answers, of a text, or as they are given.

        Raises ApiError for those that no model can go on with.
        """
        found = await asyncio.get_running_loop().run_in_executor(self._thread, self._encoded, prompt)
        if not found:
            raise ApiError(400, "the prompt has no tokens")
        if strange := next((token for token in found if not 0 <= token < self._words), None):
            raise ApiError(400, f"the prompt has token {strange}, and the model knows 0 to {self._words - 1}")
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Of new tokens, without special ones. Called in the event loop alone."""
        return str(self._decoder.decode(list(tokens), skip_special_tokens=True))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _encoded(self, prompt: list[Message] | str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return list(self._encoder(prompt)["input_ids"])
        if not prompt or isinstance(prompt[0], int):
            return list(prompt)  # type: ignore[arg-type]
        if not getattr(self._encoder, "chat_template", None):
            raise ApiError(400, "this model has no chat template; ask /v1/completions", param="messages")
        try:
            encoded = self._encoder.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        except Exception as error:  # a template may raise anything, about any chat
            text = f"this model's chat template refuses the messages: {error}"
            raise ApiError(400, text[:500], param="messages") from error
        return list(encoded["input_ids"])
