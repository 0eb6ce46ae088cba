"""Requests that make no sense, to a server in this process and without a socket: each is answered, in JSON.

None may fail the server: 200, or a code of 4xx with words that say why; and the last request, a good one, is served.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .ground import Command
from .values import HOSTILE, changed, dumped

NAME = "serve (bodies)"
SERVED = Command("serve --model {chat}")
REQUESTS = 16
MACHINE = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "25%", "time_scale": 1.0, "context": 64, "batch": 2}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "system", "content": "was"}, {"role": "user", "content": [{"type": "text", "text": "the sea"}]}]
FIELDS: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 2,
    "temperature": 0.7,
    "top_p": 0.9,
    "stop": ["calm", "xx"],
    "seed": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 1,
    "user": "me",
    "logit_bias": {},
    "response_format": {"type": "text"},
}
PROMPTS: tuple[Any, ...] = "the sea", [4, 5, 6], ["the sea"], [[4, 5]]
PATHS = (CHAT, TEXT) * 12 + ("/v1/models", "/v1/models/x", "/health", "/metrics", "/", "/v1/é\x00", "/v1/" + "x" * 3000)


class Request(NamedTuple):
    """`hangs_up`: the client does not wait for the answer."""

    path: str
    body: bytes
    method: str = "POST"
    kind: str = "application/json"
    hangs_up: bool = False


def answered(folder: Path, random: Random) -> None:
    """Raise AssertionError for the first request of some that is not answered as it should be."""
    asyncio.run(_answered(folder, [_drawn(random) for _ in range(REQUESTS)]))


async def _answered(folder: Path, requests: list[Request]) -> None:
    with _app(folder / "chat") as app:
        for request in requests:
            fault = _fault(request, *await _ask(app, request))
            assert not fault, f"{fault}: {str(request)[:600]}"
        status, said = await _ask(app, Request(CHAT, json.dumps(_good(CHAT, Random(0))).encode()))
        assert status == 200, f"no good request is answered any more: {said[:300]!r}"


@contextmanager
def _app(folder: Path) -> Iterator[Any]:
    """The server's application, over the tiny model under a scheduler."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hetsched
    from hetsched.serving.app import App
    from hetsched.serving.batching import Batching
    from hetsched.serving.desk import Desk
    from hetsched.serving.meters import Meters
    from hetsched.serving.studio import Studio
    from hetsched.serving.voice import Voice

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with hetsched.attach(model, **MACHINE) as handle:
        batching = Batching(model, parallel=2, context=64)
        try:
            voice, desk = Voice(tokenizer, model.config.vocab_size), Desk(batching, 2, 4)
            studio = Studio(model, {}, None, 64, 3)
            yield App("tiny", studio, voice, desk, Meters(desk, handle), None, 20_000)
            voice.close()
        finally:
            batching.close()


async def _ask(app: Any, request: Request) -> tuple[int, bytes]:
    """Status and body of the answer; 0 and nothing where there is none."""
    waiting = [{"type": "http.request", "body": request.body}]
    waiting += [{"type": "http.disconnect"}] * request.hangs_up
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": request.path, "method": request.method}
    await app({**scope, "headers": [(b"content-type", request.kind.encode())]}, receive, send)
    return (sent[0]["status"] if sent else 0), b"".join(message.get("body", b"") for message in sent)


def _fault(request: Request, status: int, said: bytes) -> str:
    """What is wrong with an answer; nothing where it is as it should be."""
    if request.hangs_up and not status:
        return ""
    if status != 200 and not 400 <= status < 500:
        return f"status {status}, {said[:200]!r}"
    text = said.decode()
    if request.path == "/metrics" and status == 200:
        return ""
    events = (
        [line.removeprefix("data: ") for line in text.split("\n\n") if line] if text.startswith("data: ") else [text]
    )
    documents = [json.loads(event, parse_constant=_refused) for event in events if event != "[DONE]"]
    if status == 200:
        return "an error in the stream" if any("error" in document for document in documents) else ""
    message = documents[0]["error"]["message"]
    return "" if message and len(message) < 1000 else f"no message, or a long one: {message!r:.200}"


def _refused(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _good(path: str, random: Random) -> dict[str, Any]:
    asked = {"messages": MESSAGES} if path == CHAT else {"prompt": random.choice(PROMPTS)}
    names = random.sample(sorted(FIELDS), random.randrange(len(FIELDS)))
    return copy.deepcopy({**asked, **{name: FIELDS[name] for name in names if name != "stream_options"}})


def _drawn(random: Random) -> Request:
    path = random.choice(PATHS)
    document, kind = _good(path, random), random.random()
    if kind < 0.6:
        document, _ = changed(document, random)
    elif kind < 0.8:
        document[random.choice((*FIELDS, "tools", "logprobs", "no_such", "x" * 3000, "\ud800"))] = random.choice(
            HOSTILE
        )
    try:
        body = dumped(document).encode("utf-8", "surrogatepass")
    except ValueError:
        body = b"{}"
    if kind >= 0.8:
        at, wrong = random.randrange(len(body)), (b"", b"\xff", b"{", b"[" * 5000, b"NaN", b"\x00", b'"\\ud800"')
        body = body[:at] + random.choice(wrong) + body[at + random.choice((0, 1, len(body))) :]
    method = "POST" if random.random() < 0.95 else random.choice(("GET", "PUT", "HEAD"))
    sent = "application/json" if random.random() < 0.95 else random.choice(("", "text/plain", "application/json; x"))
    return Request(path, body, method, sent, hangs_up=random.random() < 0.1)
