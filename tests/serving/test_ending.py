"""How serving begins and ends: a port that is taken, a queue that is full, and a server that is told to end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from hetsched.cli import main, serve
from tests.cli.chatting import MACHINE

from .serving import CONTEXT, lanes, serving

LONG = {"model": "tiny", "prompt": "the sea", "max_tokens": CONTEXT - 2, "temperature": 0}


async def streamed(client: openai.AsyncOpenAI, begun: asyncio.Event, tokens: int = CONTEXT - 2) -> str:
    """Why one long stream has ended; an error that ends it is raised."""
    pieces = []
    async for piece in await client.completions.create(**{**LONG, "max_tokens": tokens}, stream=True):
        pieces.append(piece)
        begun.set()
    return str(pieces[-1].choices[0].finish_reason)


def test_a_full_queue_says_when_to_come_back_and_an_end_tells_everybody(folder: Path) -> None:
    """One is answered, one waits, one is sent away; then the server ends, and no request is left without an answer."""

    async def asked() -> list[BaseException | str]:
        async with running.async_client() as client:
            begun, second = asyncio.Event(), asyncio.Event()
            tasks = [asyncio.create_task(streamed(client, begun))]
            await begun.wait()
            tasks.append(asyncio.create_task(streamed(client, second)))
            while (await client.get("/../health", cast_to=object))["waiting"] == 0:  # type: ignore[index]
                await asyncio.sleep(0.01)
            with pytest.raises(openai.RateLimitError) as caught:
                await client.completions.create(**LONG)  # type: ignore[call-overload]
            assert caught.value.response.headers["retry-after"]
            assert not second.is_set()
            running.server.should_exit = True
            return await asyncio.gather(*tasks, return_exceptions=True)

    with serving(folder, parallel=1, waiting=1, grace_s=0.0) as running:
        cut, sent_away = asyncio.run(asked())
    assert isinstance(cut, openai.APIError)
    assert "ending" in str(cut)
    assert isinstance(sent_away, openai.InternalServerError)
    assert sent_away.status_code == 503
    assert not lanes()
    assert "forward" not in running.model.model.layers[0].mlp.experts.__dict__, "the model is as before"


def test_who_is_answered_has_time_to_end(folder: Path) -> None:
    async def asked() -> str:
        async with running.async_client() as client:
            begun = asyncio.Event()
            task = asyncio.create_task(streamed(client, begun, 60))
            await begun.wait()
            running.server.should_exit = True
            return await task

    with serving(folder, grace_s=300.0) as running:
        assert asyncio.run(asked()) == "length"


def test_a_taken_port_is_said_before_the_model_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    from hetsched.serving.sockets import bound

    with bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", "/no/such/model", "--port", port]) == 2
    err = capsys.readouterr().err
    assert f"--port {port}" in err
    assert err.count("\n") == 1
    assert main(["serve", "--model", "/no/such/model", "--host", "no.such.host.invalid"]) == 2
    assert "--host no.such.host.invalid" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "NEEDED", ("no_such_package",))
    assert main(["serve", "--model", "demo", "--port", "0"]) == 2
    assert "pip install 'hetsched[serve]'" in capsys.readouterr().err


def test_a_key_that_no_header_can_hold_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(serve.KEY_VARIABLE, "clé")
    assert main(["serve", "--model", "demo", "--port", "0"]) == 2
    assert serve.KEY_VARIABLE in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that can be heard")
def test_the_command_serves_and_ends_by_sigterm_under_load(folder: Path) -> None:
    argv = [sys.executable, "-m", "hetsched", "serve", "--model", str(folder), "--port", "0", "--context", "256"]
    environ = {**os.environ, serve.KEY_VARIABLE: "from the environment"}
    with subprocess.Popen([*argv, "--grace", "0", *MACHINE], stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://\S+/v1", line)))
        client = openai.OpenAI(base_url=address, api_key="from the environment", max_retries=0, timeout=60)
        stream = iter(client.completions.create(**{**LONG, "model": "model"}, stream=True))  # type: ignore[call-overload]
        assert next(stream)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="ending"):
            list(stream)
        assert process.wait(60) == 143
        assert "Traceback" not in "".join(lines)
