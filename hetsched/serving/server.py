"""The server: its signals, and its end."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn

from ..errors import Terminated
from .app import App
from .batching import Batching
from .desk import Desk
from .meters import Meters
from .studio import Studio
from .voice import Voice

_AFTER_S = 1  # for answers that are being written when all have ended


@dataclass(frozen=True)
class Terms:
    """`name`: of the model, for clients. `key`: what they must show; None: nothing. `parallel`: requests in the batch,
    `waiting`: in the queue; `context`: tokens of each; `most_tokens`: new ones where a request says nothing.
    `settings`, `seed`: see Studio. `body_bytes`: of a request; `grace_s`: for requests under way when the server ends.
    """

    name: str
    context: int
    key: str | None = None
    parallel: int = 4
    waiting: int = 64
    most_tokens: int = 512
    settings: Mapping[str, Any] | None = None
    seed: int | None = None
    body_bytes: int = 4 << 20
    grace_s: float = 10.0


def serve(
    handle: Any,
    model: Any,
    tokenizer: Any,
    listening: socket.socket,
    terms: Terms,
    ready: Callable[[Server], None] = lambda _: None,
) -> None:
    """Serve an attached model until a signal comes, or who was given the server by `ready` sets `should_exit`.

    A first SIGINT or SIGTERM lets requests under way end, for `grace_s`; a second does not. Afterwards that request to
    end is raised: KeyboardInterrupt or Terminated.
    """
    batching = Batching(model, terms.parallel, terms.context)
    try:
        batching.check()
        words = model.get_input_embeddings().weight.shape[0]
        voice, desk = Voice(tokenizer, words), Desk(batching, terms.parallel, terms.waiting)
        studio = Studio(model, terms.settings or {}, terms.seed, terms.context, terms.most_tokens)
        app = App(terms.name, studio, voice, desk, Meters(desk, handle), terms.key, terms.body_bytes)
        server = Server(app, desk, listening, terms.grace_s)
        ready(server)
        server.run()
        voice.close()
    finally:
        batching.close()
    server.raise_what_came()


class Server(uvicorn.Server):
    """uvicorn's, which lets the desk end before its connections do, and leaves signals to us."""

    def __init__(self, app: App, desk: Desk, listening: socket.socket, grace_s: float) -> None:
        plain = {"log_config": None, "access_log": False, "server_header": False, "lifespan": "off", "ws": "none"}
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=_AFTER_S, **plain))  # type: ignore[arg-type]
        self._desk, self._listening, self._grace_s = desk, listening, grace_s
        self._came: list[int] = []

    @property
    def address(self) -> str:
        """Where clients find it."""
        host, port, *_ = self._listening.getsockname()
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Until it is told to end."""
        super().run(sockets or [self._listening])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, after all requests have ended; no new connection is accepted meanwhile."""
        for server in self.servers:
            server.close()
        await self._desk.close(0.0 if self.force_exit else self._grace_s)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Context in which requests to end are heard here, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._came.append(sig)
        if not self.force_exit:
            print(f"hetsched: ending; requests under way have {self._grace_s:g} s", file=sys.stderr)
        else:
            self._desk.hurry()

    def raise_what_came(self) -> None:
        """Raise the first request to end."""
        if self._came:
            raise KeyboardInterrupt if self._came[0] == signal.SIGINT else Terminated
