"""The server, asked by OpenAI's own client: what it answers, and that nobody's request harms another's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.chatting import ASSISTANT, USER

from .serving import CONTEXT, KEY, Served

WORDS = [f"the sea word{3 * i} was word{i} calm" for i in range(32)]
TOKENS = 8


@pytest.fixture(scope="module")
def eager(served: Served) -> Callable[..., str]:
    """What transformers generates by a model of its own, in which nothing is scheduled."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(served.model.config._name_or_path).eval()

    def text(prompt: str, seed: int = 0, tokens: int = TOKENS, **more: Any) -> str:
        ids = served.tokenizer(prompt, return_tensors="pt")["input_ids"]
        torch.manual_seed(seed)
        out = model.generate(ids, max_new_tokens=tokens, **more)
        return str(served.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    return text


def wait_for(what: Callable[[], bool]) -> None:
    """A bound for what hangs, not for what is slow."""
    end_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def health(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{served.address}/health").json()
    return found


def counted(served: Served, name: str, **labels: str) -> float:
    """A sample of /metrics, read as Prometheus reads it."""
    text = httpx2.get(f"{served.address}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert name in {sample.name for sample in samples}
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def post(served: Served, body: bytes | str, path: str = "chat/completions", **headers: str) -> httpx2.Response:
    told = {"authorization": f"Bearer {KEY}", "content-type": "application/json"} | headers
    return httpx2.post(f"{served.address}/v1/{path}", content=body, headers=told, timeout=60)


def chat(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_32_at_once_are_answered_as_each_alone(served: Served, eager: Callable[..., str]) -> None:
    """And as transformers answers, by chats and by texts, streamed and whole, eight of them in the batch at a time."""

    async def one(client: openai.AsyncOpenAI, i: int) -> str:
        more = {"model": "tiny", "max_tokens": TOKENS, "temperature": 0}
        if i % 4 == 0:
            whole = await client.chat.completions.create(messages=chat(WORDS[i]), **more)
            return whole.choices[0].message.content or ""
        if i % 4 == 1:
            return (await client.completions.create(prompt=WORDS[i], **more)).choices[0].text
        if i % 4 == 2:
            stream = await client.chat.completions.create(messages=chat(WORDS[i]), stream=True, **more)
            return "".join([piece.choices[0].delta.content or "" async for piece in stream])
        texts = await client.completions.create(prompt=WORDS[i], stream=True, **more)
        return "".join([piece.choices[0].text async for piece in texts])

    async def all_at_once() -> list[str]:
        async with served.async_client() as client:
            return await asyncio.gather(*(one(client, i) for i in range(32)))

    async def alone(i: int) -> str:
        async with served.async_client() as client:
            return await one(client, i)

    steps, tokens = served.handle.stats()["layers"], counted(served, "hetsched_tokens_total", kind="completion")
    together = asyncio.run(all_at_once())
    layers = served.handle.geometry.num_layers
    assert (served.handle.stats()["layers"] - steps) / layers < 32 * TOKENS, "no two requests shared a step"
    prompts = [f"{USER} {text} {ASSISTANT}" if i % 2 == 0 else text for i, text in enumerate(WORDS)]
    assert [text.split() for text in together] == [eager(prompt).split() for prompt in prompts]
    assert [asyncio.run(alone(i)) for i in range(0, 32, 5)] == together[::5]
    assert counted(served, "hetsched_tokens_total", kind="completion") == tokens + TOKENS * (32 + 7)
    assert 0 < counted(served, "hetsched_expert_hit_rate") <= 1
    assert counted(served, "hetsched_expert_copied_bytes_total") == served.handle.scheduler.stats.bytes_moved
    assert counted(served, "hetsched_request_seconds_count") >= 39


def test_a_seed_draws_as_transformers_does(served: Served, eager: Callable[..., str]) -> None:
    """Whatever else is in the batch; another seed draws otherwise."""

    async def drawn() -> list[str]:
        async with served.async_client() as client:
            asks = [
                client.completions.create(
                    model="tiny", prompt="the sea", max_tokens=TOKENS, temperature=1.5, top_p=0.9, seed=seed
                )
                for seed in (1, 1, 2)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asks)]

    texts = asyncio.run(drawn())
    ours = [eager("the sea", seed, do_sample=True, temperature=1.5, top_p=0.9) for seed in (1, 1, 2)]
    assert texts == ours
    assert texts[0] != texts[2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_nobodys_text(served: Served, temperature: float) -> None:
    """The request is told why it failed; the server goes on."""
    client, head = served.client(), served.model.lm_head.weight
    asked = {"model": "tiny", "prompt": "the sea", "max_tokens": TOKENS, "temperature": temperature, "seed": 1}
    before, sound = client.completions.create(**asked).choices[0].text, head.detach().clone()
    head.data.fill_(float("nan"))
    try:
        with pytest.raises(openai.InternalServerError, match="no number"):
            client.completions.create(**asked)
    finally:
        head.data.copy_(sound)
    assert client.completions.create(**asked).choices[0].text == before


def test_a_stop_string_ends_a_text_before_it(served: Served) -> None:
    client = served.client()
    more: dict[str, Any] = {"model": "tiny", "prompt": "was calm", "max_tokens": TOKENS, "temperature": 0}
    whole = client.completions.create(**more)
    words = whole.choices[0].text.split()
    stop = [f"{words[3]} {words[4]}", "never said"]
    cut = client.completions.create(**more, stop=stop)
    stream = list(client.completions.create(**more, stop=stop, stream=True, stream_options={"include_usage": True}))
    assert cut.choices[0].text.split() == words[:3]
    assert (whole.choices[0].finish_reason, cut.choices[0].finish_reason) == ("length", "stop")
    assert "".join(piece.choices[0].text for piece in stream[:-1]) == cut.choices[0].text
    assert stream[-2].choices[0].finish_reason == "stop"
    assert stream[-1].usage == cut.usage
    assert cut.usage is not None
    assert (cut.usage.prompt_tokens, cut.usage.completion_tokens) == (2, 5)


def test_a_client_that_hangs_up_leaves_the_batch(served: Served) -> None:
    """In a stream, in an answer that is awaited, and with a body that is not all there."""
    gone = counted(served, "hetsched_requests_total", status="499")
    client = served.client()
    stream = client.completions.create(model="tiny", prompt="the", max_tokens=CONTEXT - 1, stream=True)
    assert next(iter(stream)).choices[0].text
    stream.close()
    body = json.dumps({"prompt": "the", "max_tokens": CONTEXT - 1})
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(
            f"{served.address}/v1/completions",
            content=body,
            headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
            timeout=0.2,
        )
    wait_for(lambda: health(served)["running"] == 0)
    wait_for(lambda: counted(served, "hetsched_requests_total", status="499") == gone + 2)
    assert client.completions.create(model="tiny", prompt="the", max_tokens=2).choices[0].text


def test_a_step_that_fails_fails_who_is_in_it_alone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.client()
    with monkeypatch.context() as broken:
        broken.setattr(served.handle.engine, "forward", lambda _: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="the batch failed"):
            client.completions.create(model="tiny", prompt="the sea", max_tokens=2)
    assert client.completions.create(model="tiny", prompt="the sea", max_tokens=2).choices[0].text


def test_who_may_ask_and_what(served: Served) -> None:
    """Each refusal says what is wrong, as OpenAI's clients expect it."""
    client = served.client()
    assert [model.id for model in client.models.list()] == [client.models.retrieve("tiny").id] == ["tiny"]
    for key in ("wrong", "sk-ü", f"{KEY} "[:-2]):
        told = httpx2.get(f"{served.address}/v1/models", headers={"authorization": f"Bearer {key}".encode()})
        assert (told.status_code, told.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        served.client("wrong").models.list()
    assert httpx2.get(f"{served.address}/metrics").status_code == 401
    assert health(served)["status"] == "ok"
    with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served"):
        client.completions.create(model="gpt-9", prompt="the")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.BadRequestError, match=f"room for {CONTEXT} together") as caught:
        client.completions.create(model="tiny", prompt="the " * (CONTEXT + 1))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=f"room for {CONTEXT} together"):
        client.completions.create(model="tiny", prompt="the", max_tokens=CONTEXT)
    with pytest.raises(openai.BadRequestError, match="token 128"):
        client.completions.create(model="tiny", prompt=[3, 128])
    with pytest.raises(openai.BadRequestError, match="n is not supported"):
        client.completions.create(model="tiny", prompt="the", n=2)
    with pytest.raises(openai.BadRequestError, match="refuses the messages"):
        client.chat.completions.create(model="tiny", messages=[{"role": "judge", "content": "calm"}])  # type: ignore[list-item,misc]
    assert post(served, b"{" + b" " * 20_000 + b"}").status_code == 413
    assert httpx2.get(f"{served.address}/v1/completions", headers={"authorization": f"Bearer {KEY}"}).status_code == 405
    assert post(served, "{}", "nothing").status_code == 404
    assert post(served, '{"prompt": "the"}', "completions", **{"content-type": "text/plain"}).status_code == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "n",
    "tools",
    "logit_bias",
    "unheard_of",
]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"prompt": NaN}', b"[" * 19_000, b'{"seed": 1' + b"0" * 5000 + b"}"],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_object_is_refused(served: Served, body: bytes) -> None:
    told = post(served, body)
    assert told.status_code == 400
    assert told.json()["error"]["type"] == "invalid_request_error"


@settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3), is_chat=st.booleans())
def test_any_field_is_understood_or_refused(served: Served, fields: dict[str, Any], is_chat: bool) -> None:
    """Never a failure of the server, and no answer that a client cannot read."""
    body = {**({"messages": chat("the sea")} if is_chat else {"prompt": "the sea"}), **fields}
    told = post(served, json.dumps(body), "chat/completions" if is_chat else "completions")
    assert told.status_code in (200, 400, 404), told.text
    if told.status_code != 200:
        error = told.json()["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}
    elif body.get("stream"):
        assert told.text.endswith("data: [DONE]\n\n")
    else:
        assert told.json()["usage"]["completion_tokens"] >= 1
