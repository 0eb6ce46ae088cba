"""Wire: bodies read within a limit, and answers written, on bare ASGI (https://asgi.readthedocs.io)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .api_error import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_S = 60.0


class Gone(Exception):
    """The client hung up."""


async def read_body(scope: Scope, receive: Receive, most_bytes: int) -> bytes:
    """The whole body. Raises ApiError for one that is too long or too slow, and Gone."""
    if int(header(scope, b"content-length") or 0) > most_bytes:
        raise _too_long(most_bytes)
    try:
        return await asyncio.wait_for(_body(receive, most_bytes), BODY_S)
    except asyncio.TimeoutError as error:
        raise ApiError(408, f"the body did not come within {BODY_S:g} s", headers=_CLOSE) from error


async def hung_up(receive: Receive) -> None:
    """Returns when the client does."""
    while (await receive())["type"] != "http.disconnect":
        pass


def header(scope: Scope, name: bytes) -> str:
    """A header of the request; empty where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def write(send: Send, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
    """A whole answer."""
    await send(_start(status, {"content-type": kind, "content-length": str(len(body)), **(headers or {})}))
    await send({"type": "http.response.body", "body": body})


async def write_json(send: Send, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
    """A document."""
    await write(send, status, json.dumps(document).encode(), "application/json", headers)


class Events:
    """A stream of server-sent events; it begins with the first. `begun`: there is no other answer any more."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def say(self, document: Any) -> None:
        """One event; a text as it is."""
        if not self.begun:
            self.begun = True
            await self._send(_start(200, {"content-type": "text/event-stream", "cache-control": "no-cache"}))
        text = document if isinstance(document, str) else json.dumps(document)
        await self._send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})

    async def end(self) -> None:
        """No more events."""
        await self._send({"type": "http.response.body", "body": b""})


_CLOSE = {"connection": "close"}


async def _body(receive: Receive, most_bytes: int) -> bytes:
    parts, num_bytes = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        num_bytes += len(parts[-1])
        if num_bytes > most_bytes:
            raise _too_long(most_bytes)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_long(most_bytes: int) -> ApiError:
    return ApiError(413, f"the body is longer than {most_bytes} bytes", code="body_too_long", headers=_CLOSE)


def _start(status: int, headers: dict[str, str]) -> Message:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}
