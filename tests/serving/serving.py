"""A server in a thread of this process, with the tiny model under a scheduler, and clients for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

import hetsched
from hetsched.serving.server import Server, Terms, serve
from hetsched.serving.sockets import bound
from tests.generation.generating import EMULATED

KEY = "not a secret"
CONTEXT = 256


class Served:
    """`model`, `tokenizer` and `handle` of a running server, and clients of it."""

    def __init__(self, server: Server, model: Any, tokenizer: Any, handle: Any) -> None:
        self.server, self.model, self.tokenizer, self.handle = server, model, tokenizer, handle
        self.address = server.address

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=60)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.address}/v1", api_key=KEY, max_retries=0, timeout=60)


@contextlib.contextmanager
def serving(folder: Path, options: dict[str, Any] = EMULATED, **terms: Any) -> Iterator[Served]:
    """A server until the block ends, which then ends as it should: whatever it raised is raised here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ready, servers, errors = threading.Event(), list[Server](), list[BaseException]()
    settings = Terms(**{"name": "tiny", "context": CONTEXT, "key": KEY, "parallel": 8, "grace_s": 2.0} | terms)

    def told(server: Server) -> None:
        servers.append(server)
        ready.set()

    def work() -> None:
        try:
            serve(handle, model, tokenizer, listening, settings, told)
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    with bound("127.0.0.1", 0) as listening, hetsched.attach(model, **options) as handle:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            ready.wait()
            if servers:
                yield Served(servers[0], model, tokenizer, handle)
        finally:
            for server in servers:
                server.should_exit = True
            thread.join(60)
    assert not thread.is_alive(), "the server did not end"
    if errors:
        raise errors[0]


def lanes() -> list[str]:
    """Names of the engine's threads that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hetsched-")]
