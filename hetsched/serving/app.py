"""App: the paths of the server, who may ask, and one answer from its first byte to its last."""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from .answers import Answer, usage_of
from .api_error import ApiError
from .asked import Asked, asked_of, read_json
from .desk import Desk
from .meters import CONTENT_TYPE, Meters
from .spoken import Spoken
from .studio import Studio
from .voice import Voice
from .wire import Events, Gone, Receive, Scope, Send, header, hung_up, read_body, write, write_json

HUNG_UP = 499  # nginx's word for a client that did not wait
_POSTED = {"/v1/chat/completions": True, "/v1/completions": False}  # whether it is a chat
_READ = ("/v1/models", "/health", "/metrics")


class App:
    """An ASGI application. `key`: what clients must show, None: nothing; `body_bytes`: of a request, at most."""

    def __init__(
        self, name: str, studio: Studio, voice: Voice, desk: Desk, meters: Meters, key: str | None, body_bytes: int
    ) -> None:
        self.name = name
        self._studio, self._voice, self._desk, self._meters = studio, voice, desk, meters
        self._key, self._body_bytes = key, body_bytes
        self._begun = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Whatever fails is told to its client alone."""
        if scope["type"] != "http":
            return
        path, events, status = scope["path"], Events(send), 200
        try:
            self._admit(scope, path)
            if path not in _POSTED:
                await self._read(path, send)
            else:
                await self._posted(path, scope, receive, send, events)
        except (Gone, asyncio.CancelledError) as error:
            status = HUNG_UP
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:
            told = error if isinstance(error, ApiError) else _unforeseen(error)
            status = told.status
            if not events.begun:
                await write_json(send, told.document(), status, told.headers)
            else:
                await events.say(told.document())
                await events.end()
        finally:
            endpoint = path if path in _READ or path in _POSTED else "other"
            self._meters.requests.labels(endpoint, str(status)).inc()

    def _admit(self, scope: Scope, path: str) -> None:
        """Raise ApiError for a wrong key, path or method, before any of the body is read."""
        if self._key is not None and path != "/health":
            kind, _, shown = header(scope, b"authorization").partition(" ")
            right = hmac.compare_digest(shown.strip().encode("latin-1"), self._key.encode())
            if not right or kind.lower() != "bearer":
                text = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
                raise ApiError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        if path not in _READ and path not in _POSTED and not path.startswith("/v1/models/"):
            raise ApiError(404, f"there is nothing at {path!r:.100}")
        allowed = "POST" if path in _POSTED else "GET"
        if scope["method"] != allowed:
            raise ApiError(405, f"{path} is for {allowed}", headers={"allow": allowed})
        if path in _POSTED and header(scope, b"content-type").partition(";")[0].strip().lower() != "application/json":
            # Also what keeps web pages out: a browser asks before it sends JSON to another origin, and is not answered.
            raise ApiError(400, "the body's content-type is not application/json")

    async def _read(self, path: str, send: Send) -> None:
        if path == "/metrics":
            await write(send, 200, self._meters.text(), CONTENT_TYPE)
        elif path == "/health":
            await write_json(send, {"status": "ok", "running": self._desk.running, "waiting": self._desk.waiting})
        elif path == "/v1/models":
            await write_json(send, {"object": "list", "data": [self._model()]})
        elif path == f"/v1/models/{self.name}":
            await write_json(send, self._model())
        else:
            raise ApiError(404, f"there is no such model: there is {self.name!r}", code="model_not_found")

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._begun, "owned_by": "hetsched"}

    async def _posted(self, path: str, scope: Scope, receive: Receive, send: Send, events: Events) -> None:
        """Answer, unless the client hangs up first: then nothing more is generated for it."""
        body = read_json(await read_body(scope, receive, self._body_bytes))
        asked = asked_of(body, chat=_POSTED[path], model=self.name)
        answering = asyncio.ensure_future(
            self._answer(asked, Answer.begun(self.name, chat=_POSTED[path]), send, events)
        )
        gone = asyncio.ensure_future(hung_up(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Gone
            await answering
        finally:
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, asked: Asked, answer: Answer, send: Send, events: Events) -> None:
        begin_s = time.perf_counter()
        ids = await self._voice.ids(asked.prompt)
        job = self._studio.job(asked, ids)
        spoken, finish, parts = Spoken(self._voice.text, asked.stop), "length", []
        async with (
            self._desk.place(),
            aclosing(self._desk.tokens(job)) as tokens,
            aclosing(self._pieces(tokens, spoken, begin_s)) as pieces,
        ):
            async for text in pieces:
                parts.append(text)
                if asked.stream and (text or not events.begun):
                    await events.say(answer.piece(text, first=not events.begun))
        if spoken.stopped or spoken.last in job.eos:
            finish = "stop"
        usage = usage_of(len(ids), spoken.tokens)
        self._count(usage, time.perf_counter() - begin_s)
        if not asked.stream:
            await write_json(send, answer.whole("".join(parts), finish, usage))
            return
        await events.say(answer.piece(None, finish))
        if asked.usage:
            await events.say(answer.counts(usage))
        await events.say("[DONE]")
        await events.end()

    async def _pieces(
        self, tokens: AsyncIterator[list[int]], spoken: Spoken, begin_s: float
    ) -> AsyncGenerator[str, None]:
        """The text as it comes, up to a stop string, and what was held back."""
        first_s = last_s = None
        async for fresh in tokens:
            last_s = time.perf_counter()
            if first_s is None:
                first_s = last_s
                self._meters.first_token_s.observe(first_s - begin_s)
            for token in fresh:
                yield spoken.add(token)
                if spoken.stopped:
                    break
            if spoken.stopped:
                break
        if first_s is not None and last_s is not None and spoken.tokens > 1:
            self._meters.token_s.observe((last_s - first_s) / (spoken.tokens - 1))
        yield spoken.rest()

    def _count(self, usage: dict[str, int], seconds: float) -> None:
        self._meters.tokens.labels("prompt").inc(usage["prompt_tokens"])
        self._meters.tokens.labels("completion").inc(usage["completion_tokens"])
        self._meters.request_s.observe(seconds)


def _unforeseen(error: Exception) -> ApiError:
    """What the client is told; the rest is the server's."""
    print(f"hetsched: a request failed: {json.dumps(f'{type(error).__name__}: {error}'[:500])}", file=sys.stderr)
    return ApiError(500, "the server failed at this request")
