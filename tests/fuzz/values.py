"""Values that make no sense, and documents with one of them somewhere."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

NUMBERS = (
    0,
    -1,
    1,
    2**31,
    999,
    30_000,
    10**9,
    2**63,
    2**64,
    -(2**70),
    10**400,
    0.5,
    1e308,
    -1e308,
    math.inf,
    -math.inf,
    math.nan,
)
TEXTS = (
    "",
    " ",
    "x" * 300,
    "\0",
    "../../etc/passwd",
    "/",
    "~nobody/x",
    "é\u202e",
    "1e5",
    "bf16",
    "typing:Any",
    "sys:exit",
)
HOLDERS: tuple[Any, ...] = [], [[]], [None], {}, {"": {}}, {"a": [1, {"b": None}]}, [0] * 1000, ["a"] * 3
HOSTILE: tuple[Any, ...] = None, True, False, *NUMBERS, *TEXTS, *HOLDERS


def dumped(document: Any) -> str:
    """As json.dumps, also of integers longer than Python prints."""
    text = json.dumps(document, ensure_ascii=False).replace('"10**400"', "1" + "0" * 5000)
    return text.encode("utf-8", "replace").decode()


def changed(document: Any, random: Random) -> tuple[Any, str]:
    """The document with one value of it changed, missing or renamed, and what was done."""
    places = list(_places(document, ()))
    if not places:
        return random.choice(HOSTILE), "the whole document"
    *way, key = random.choice(places)
    holder = document
    for step in way:
        holder = holder[step]
    name = ".".join(str(step)[:40] for step in (*way, key))
    kind = random.random()
    if kind < 0.75:
        value = random.choice(HOSTILE)
        holder[key] = "10**400" if isinstance(value, int) and abs(value) > 2**100 else value
        return document, f"{name} = {str(value)[:40]!r}"
    if kind < 0.9 or isinstance(holder, list):
        del holder[key]
        return document, f"{name} is missing"
    holder[f"{key}x"] = holder.pop(key)
    return document, f"{name} is named {key}x"


def _places(document: Any, way: tuple[Any, ...]) -> Any:
    """All places of values, the way to each."""
    if len(way) > 8:
        return
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(entries)[:200]:
        yield (*way, key)
        yield from _places(value, (*way, key))
