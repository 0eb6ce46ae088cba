"""A chat's messages within the context, and the keys and values that the model keeps of them."""

from __future__ import annotations

from typing import Any

from hetsched.errors import InputError

from .prompting import Message, encode_messages, system_message


class Conversation:
    """What has been said so far. Where it outgrows `context` tokens, the oldest questions go, with their answers.

    `room`: tokens of an answer that a question leaves free, as long as there is an older one to forget.
    """

    def __init__(self, tokenizer: Any, system: str | None, *, context: int, room: int) -> None:
        self.forgotten = 0  # questions that are no longer in the context
        self._tokenizer = tokenizer
        self._system = system_message(system)
        self._context, self._room = context, room
        self._said: list[Message] = []

    def ask(self, question: str) -> Any:
        """Token ids [1, T] of all that the model is to see. Raises InputError for a question beyond the context."""
        self._said.append({"role": "user", "content": question})
        while True:
            ids = encode_messages(self._tokenizer, [*self._system, *self._said])
            if ids.shape[1] + self._room <= self._context or len(self._said) == 1:
                break
            del self._said[:2]
            self.forgotten += 1
        if ids.shape[1] >= self._context:
            self._said.pop()
            raise InputError(
                f"this takes {ids.shape[1]:,} tokens and the context has {self._context:,}: write less, or start with "
                "a larger --context"
            )
        return ids

    def room_after(self, ids: Any) -> int:
        """Tokens that an answer to these may have."""
        return min(self._room, self._context - int(ids.shape[1]))

    def answered(self, answer: str) -> None:
        """The model's answer to what was asked; of a question without one nothing stays."""
        if answer.strip():
            self._said.append({"role": "assistant", "content": answer})
        else:
            self._said.pop()


class Remembered:
    """The KV cache from one answer to the next, so that only what is new is read."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self._in_use: Any = None
        self._ids: list[int] = []  # whose keys and values it holds

    def settings(self, ids: Any) -> dict[str, Any]:
        """generate()'s, for a prompt of these token ids [1, T]; until `keep` the cache counts as spoilt."""
        from transformers import DynamicCache

        if self._model.generation_config.cache_implementation is not None:
            return {}  # it makes a cache of its own kind for each answer
        told = ids[0].tolist()
        same = _same_start(self._ids, told[:-1])  # the last one is read again: its logits are wanted
        cache, self._cache = self._cache, None
        if cache is None or not same or not _cut(cache, same):
            cache = DynamicCache(config=self._model.config)
        self._in_use = cache
        return {"past_key_values": cache}

    def keep(self, ids: Any, new: list[int]) -> None:
        """The answer came to its end: the cache holds the prompt and all of it but the last token."""
        self._cache, self._ids = self._in_use, [*ids[0].tolist(), *new[:-1]]


def _same_start(ours: list[int], theirs: list[int]) -> int:
    """Tokens that both begin with."""
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _cut(cache: Any, tokens: int) -> bool:
    """Whether the cache now holds just the first `tokens`; states and full windows cannot be turned back."""
    length = cache.get_seq_length()
    if length > tokens:
        try:
            cache.crop(tokens - length)
        except (RuntimeError, ValueError, NotImplementedError):
            return False
    return bool(cache.get_seq_length() == tokens)
