"""Desk: who is in the batch, who waits for a place, and who is sent away. For one event loop.

Requests wait in the order in which they came. Where too many do, the next is told to come back later (429), so that no
queue grows without end; while the server ends, all who wait are sent away, and those in the batch have a time to end.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from ..errors import InputError
from .api_error import ApiError
from .batching import Batching
from .draws import Draw

RETRY_AFTER_S = 2
_ENDING = "the server is ending"


class Job(NamedTuple):
    """A prompt's token ids, new tokens at most, tokens that end the text, and how they are drawn (None: greedily)."""

    ids: Sequence[int]
    most: int
    eos: list[int]
    draw: Draw | None


class _News(NamedTuple):
    tokens: Sequence[int]
    finished: bool
    error: str | None


class Desk:
    """`places`: requests in the batch at most; `chairs`: that may wait."""

    def __init__(self, batching: Batching, places: int, chairs: int) -> None:
        self._batching, self._places, self._chairs = batching, places, chairs
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running: dict[str, asyncio.Queue[_News]] = {}
        self._taken = 0
        self._ending = self._hurried = False
        self._numbers = itertools.count()

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Requests that have none yet."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Context in which the caller has a place. Raises ApiError where it is sent away."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def tokens(self, job: Job) -> AsyncGenerator[list[int], None]:
        """New tokens as they come; for who has a place. Closed or cancelled, the job leaves the batch."""
        loop, news = asyncio.get_running_loop(), asyncio.Queue[_News]()
        name = f"request-{next(self._numbers)}"

        def told(tokens: Sequence[int], finished: bool, error: str | None) -> None:
            loop.call_soon_threadsafe(news.put_nowait, _News(tokens, finished, error))

        self._running[name] = news
        submitted = asyncio.ensure_future(asyncio.to_thread(self._batching.submit, name, *job, told))
        try:
            await asyncio.shield(submitted)
            async with aclosing(_fresh(news, job)) as fresh:
                async for tokens in fresh:
                    yield tokens
        finally:
            del self._running[name]
            await asyncio.wait([submitted])  # a thread cannot be cancelled, and must not submit after the next line
            self._batching.cancel(name)

    async def close(self, patience_s: float) -> None:
        """Send away who waits; let who is in the batch end within so many seconds, and fail the rest."""
        self._ending = True
        while self._waiting:
            self._waiting.popleft().set_exception(ApiError(503, _ENDING))
        loop = asyncio.get_running_loop()
        end_s = loop.time() + patience_s
        while self._taken and loop.time() < end_s and not self._hurried:
            await asyncio.sleep(0.02)
        for news in self._running.values():
            news.put_nowait(_News((), True, _ENDING))

    def hurry(self) -> None:
        """While it closes: at once."""
        self._hurried = True

    async def _enter(self) -> None:
        if self._ending:
            raise ApiError(503, _ENDING)
        if self._taken < self._places:
            self._taken += 1
            return
        if len(self._waiting) >= self._chairs:
            text = f"{self._taken} requests run and {len(self._waiting)} wait; come back later"
            raise ApiError(429, text, code="queue_full", headers={"retry-after": str(RETRY_AFTER_S)})
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:  # a place came at the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        """A place is free: it goes to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1


async def _fresh(news: asyncio.Queue[_News], job: Job) -> AsyncGenerator[list[int], None]:
    seen = 0
    while True:
        tokens, finished, error = await news.get()
        if job.draw is not None and job.draw.error is not None:
            failed = job.draw.error
            said = str(failed) if isinstance(failed, InputError) else f"drawing a token failed: {type(failed).__name__}"
            raise ApiError(500, said) from failed
        if error is not None:
            raise ApiError(503 if error == _ENDING else 500, error if error == _ENDING else "the batch failed")
        if len(tokens) > seen:
            yield list(tokens[seen:])
            seen = len(tokens)
        if finished:
            return
