"""Spoken: tokens to text as they come, up to the first stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "�"  # what a decoder writes for a character whose bytes are not all there


class Spoken:
    """The text of one answer. `decode`: of token ids. `stopped`: a stop string has come, and what follows is dropped.

    Only the last tokens are decoded again: those before which text no longer changes are left (the two offsets of
    Hugging Face's text-generation-inference). Text that may yet become a stop string is held back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        self._begin = self._read = 0
        self._held = ""

    @property
    def tokens(self) -> int:
        """How many tokens there were, with that which completed a stop string."""
        return len(self._ids)

    @property
    def last(self) -> int | None:
        """The last token; None for none."""
        return self._ids[-1] if self._ids else None

    def add(self, token: int) -> str:
        """What is new in the text by this token."""
        self._ids.append(token)
        fresh = self._fresh()
        if fresh.endswith(_HALF):
            return ""
        if fresh:
            self._begin, self._read = self._read, len(self._ids)
        return self._before_stop(fresh)

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        fresh = "" if self.stopped else self._fresh()
        self._read = len(self._ids)
        said = self._before_stop(fresh)
        held, self._held = self._held, ""
        return said + held

    def _fresh(self) -> str:
        shown = self._decode(self._ids[self._begin : self._read])
        return self._decode(self._ids[self._begin :])[len(shown) :]

    def _before_stop(self, fresh: str) -> str:
        text = self._held + fresh
        if found := [place for stop in self._stops if (place := text.find(stop)) >= 0]:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
