"""What a request's body asks for: every field is checked, and one that would change the text is never ignored."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from .api_error import ApiError

MOST_STOPS, MOST_SEED, HOTTEST = 4, 2**63 - 1, 2.0
Message = dict[str, str]
# Fields that change nothing here, and fields that would, with the values at which they do not.
_IDLE = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_OWN = ("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "seed")


@dataclass(frozen=True)
class Asked:
    """`prompt`: messages of a chat, a text to go on with, or its token ids. `most`: new tokens, None: unsaid.

    `sampling`: settings that go before the server's own. `usage`: a stream ends with the counts of tokens.
    """

    prompt: list[Message] | str | list[int]
    most: int | None
    stop: tuple[str, ...]
    seed: int | None
    sampling: dict[str, Any]
    stream: bool
    usage: bool


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError for anything else."""
    try:
        found = json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {str(error) or type(error).__name__:.200}") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body is not a JSON object")
    return found


def asked_of(body: dict[str, Any], *, chat: bool, model: str) -> Asked:
    """What a chat or a completion of this server's one model asks for. Raises ApiError naming the field at fault."""
    _refuse_unknown(body, ("messages", "max_completion_tokens") if chat else ("prompt",))
    named = body.get("model")
    if named is not None and named != model:
        text = f"the model {str(named)!r:.100} is not served here: there is {model!r}"
        raise ApiError(404, text, param="model", code="model_not_found")
    most = _whole(body, "max_tokens", 1)
    more = _whole(body, "max_completion_tokens", 1) if chat else None
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        _fault("stream_options", "is not an object")
    return Asked(
        prompt=_messages(body.get("messages")) if chat else _prompt(body.get("prompt")),
        most=most if more is None else more,
        stop=_stops(body.get("stop")),
        seed=_whole(body, "seed", -MOST_SEED),
        sampling=_sampling(body),
        stream=_flag(body, "stream"),
        usage=_flag(options, "include_usage"),
    )


def _refuse_unknown(body: dict[str, Any], prompt: tuple[str, ...]) -> None:
    for name, value in body.items():
        if name in _NEUTRAL:
            if value is not None and value not in _NEUTRAL[name]:
                _fault(name, f"is not supported but as {json.dumps(_NEUTRAL[name][0])}; leave it out")
        elif name not in (*prompt, *_OWN, *_IDLE):
            _fault(name, "is no field that this server knows; leave it out")


def _sampling(body: dict[str, Any]) -> dict[str, Any]:
    """Settings of generation: temperature 0 is the likeliest token each time; either field samples."""
    temperature, top_p = _number(body, "temperature", 0, HOTTEST), _number(body, "top_p", 0, 1)
    if temperature == 0:
        return {"do_sample": False}
    if top_p == 0:
        _fault("top_p", "is 0, which leaves no token; give more, or temperature 0")
    given = {"temperature": temperature, "top_p": top_p}
    drawn = {name: value for name, value in given.items() if value is not None}
    return {"do_sample": True, **drawn} if drawn else {}


def _messages(found: Any) -> list[Message]:
    if not isinstance(found, list) or not found:
        _fault("messages", "is not a list of messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(found)]


def _message(found: Any, name: str) -> Message:
    if not isinstance(found, dict):
        _fault(name, "is not an object")
    content = found.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            _fault(f"{name}.content", "has parts that are not text, and this server reads text alone")
        content = "".join(_text(part.get("text"), f"{name}.content") for part in content)
    return {"role": _text(found.get("role"), f"{name}.role"), "content": _text(content, f"{name}.content")}


def _prompt(found: Any) -> str | list[int]:
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], (str, list)):
        found = found[0]
    if isinstance(found, list) and found and all(type(token) is int for token in found):
        return found
    if isinstance(found, list):
        _fault("prompt", "is not one text, nor the ids of one; send several texts as several requests")
    return _text(found, "prompt")


def _stops(found: Any) -> tuple[str, ...]:
    if found is None:
        return ()
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or len(texts) > MOST_STOPS:
        _fault("stop", f"is not a text, nor a list of at most {MOST_STOPS}")
    if "" in texts:
        _fault("stop", "has an empty text, which is everywhere")
    return tuple(_text(text, "stop") for text in texts)


def _text(found: Any, name: str) -> str:
    if not isinstance(found, str):
        _fault(name, "is not a text")
    try:
        found.encode()
    except UnicodeEncodeError:
        _fault(name, "has half of a surrogate pair, which is no character")
    return found


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        _fault(name, "is not true or false")
    return bool(value)


def _whole(body: dict[str, Any], name: str, low: int) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or not low <= value <= MOST_SEED):
        _fault(name, f"is not a whole number of at least {low}")
    return value


def _number(body: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        _fault(name, f"is not a number from {low:g} to {high:g}")
    return float(value)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _fault(name: str, what: str) -> NoReturn:
    raise ApiError(400, f"{name:.100} {what}", param=name[:100])
