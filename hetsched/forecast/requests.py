"""Where requests begin, guessed from phases and lengths: nobody says so to what only sees demands."""

from __future__ import annotations

from ..types import Phase


class Requests:
    """A prefill step after any other begins a request; until one was seen, one ends after `usual_tokens`."""

    def __init__(self, usual_tokens: float) -> None:
        self._usual_tokens = usual_tokens
        self._tokens = 0
        self._phase = Phase.UNKNOWN
        self._prefill_seen = False

    def begins(self, phase: Phase, tokens: int) -> bool:
        """Whether a step of this phase, and so many tokens, begins another request; to be asked once a step."""
        if phase is Phase.PREFILL:
            fresh = self._phase is not Phase.PREFILL and self._tokens > 0
            self._prefill_seen = True
        else:
            fresh = not self._prefill_seen and self._tokens >= self._usual_tokens
        self._phase = phase
        self._tokens = tokens + (0 if fresh else self._tokens)
        return fresh
