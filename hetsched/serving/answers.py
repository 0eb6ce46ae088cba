"""Answers: the JSON documents of OpenAI's chat and text completions, whole and in pieces."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What all documents of one answer share."""

    model: str
    chat: bool
    name: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def begun(cls, model: str, *, chat: bool) -> Answer:
        """An answer with a name of its own."""
        return cls(model, chat, f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}")

    def whole(self, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """The one document of an answer that is not streamed."""
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._document(kind, [_choice(said, finish)]), "usage": usage}

    def piece(self, text: str | None, finish: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """A chunk of a stream; None: without text."""
        delta = {**({"role": "assistant"} if first else {}), **({} if text is None else {"content": text})}
        said: dict[str, Any] = {"delta": delta} if self.chat else {"text": text or ""}
        return self._document(self._piece, [_choice(said, finish)])

    def counts(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk of a stream whose counts are asked for."""
        return {**self._document(self._piece, []), "usage": usage}

    @property
    def _piece(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.name, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """Counts of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _choice(said: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish}
