"""Damage to a good file, drawn: bytes of any kind, values of JSON and YAML, safetensors headers; or no file at all."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import yaml

from .binary import damage_arrays, damage_gguf, damage_pickle
from .values import HOSTILE, changed, dumped

DEEP = 5000
READER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
TEMPLATES = (
    "{{ 1 / 0 }}",
    "{{ raise_exception('no') }}",
    "{{ messages[9].content }}",
    "{% if %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ 'x' * 10**12 }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{% for a in range(10**4) %}{% for b in range(10**4) %}{% endfor %}{% endfor %}",
    "{% for a in 'x' * 10**8 %}{% endfor %}",
    "{{ 9**9**9 }}",
    "{% set a = namespace(b='x') %}{% for c in range(99) %}{% set a.b = a.b + a.b %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include 'x' %}",
    "{{ undefined.x }}",
    "",
    " ",
)


def damage(path: Path, random: Random) -> str:
    """Damage the file where it lies; what was done, in words."""
    kinds: Sequence[Callable[[Path, Random], str]] = [_bytes, _absent]
    if not path.stat().st_size:
        kinds = [_absent]
    elif path.suffix in (".json", ".yaml", ".jsonl"):
        kinds = [_value] * 8 + [_nested, _bytes, _absent]
    elif path.suffix == ".safetensors":
        kinds = [_header] * 3 + [_bytes] * 2 + [_absent]
    elif path.suffix in (".csv", ".txt"):
        kinds = [_line] * 3 + [_bytes, _absent]
    elif path.suffix == ".jinja":
        kinds = [_template] * 3 + [_bytes, _absent]
    elif path.suffix == ".npz":
        kinds = [damage_arrays] * 4 + [_bytes] * 2 + [_absent]
    elif path.suffix == ".gguf":
        kinds = [damage_gguf] * 4 + [_bytes] * 2 + [_absent]
    elif path.suffix in (".bin", ".pt"):
        kinds = [damage_pickle] * 4 + [_bytes] * 2 + [_absent]
    return random.choice(kinds)(path, random)


def _bytes(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    way = random.choice(("empty", "cut", "flipped", "zeroed", "doubled", "noise", "huge number", "not utf-8"))
    at = random.randrange(len(data)) if random.random() < 0.5 else random.randrange(min(len(data), 400))
    if way == "empty":
        data = bytearray()
    elif way == "cut":
        del data[at:]
    elif way == "flipped":
        for _ in range(random.choice((1, 1, 8, 64))):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif way == "zeroed":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif way == "doubled":
        data[at:at] = data[: random.randrange(1, len(data))]
    elif way == "noise":
        data[at : at + 16] = random.randbytes(16)
    elif way == "huge number":
        data[at : at + 8] = struct.pack("<Q", random.choice((2**63, 2**64 - 1, 2**40, 2**31)))
    else:
        data[at:at] = b"\xff\xfe\x00"
    path.write_bytes(data)
    return f"{way} at {at}"


def _absent(path: Path, random: Random) -> str:
    """What lies in the file's place."""
    way = random.choice(("nothing", "a folder", "a dangling link", "a loop of links", "unreadable", "a null device"))
    path.unlink()
    if way == "a folder":
        path.mkdir()
    elif way == "a dangling link":
        path.symlink_to(path.parent / "nowhere")
    elif way == "a loop of links":
        path.symlink_to(path)
    elif way == "unreadable":
        path.touch(mode=0)
    elif way == "a null device":
        path.symlink_to(os.devnull)
    return f"{way} in its place"


def _value(path: Path, random: Random) -> str:
    """One value of a document is another, one is missing, or one is named anew."""
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    number = random.randrange(len(lines))
    document = json.loads(lines[number]) if path.suffix != ".yaml" else yaml.load(text, READER)
    document, said = changed(document, random)
    lines[number] = yaml.safe_dump(document) if path.suffix == ".yaml" else dumped(document)
    path.write_text("\n".join(lines))
    return said


def _template(path: Path, random: Random) -> str:
    text = random.choice(TEMPLATES)
    path.write_text(text if random.random() < 0.5 else path.read_text() + text)
    return f"with {text!r}"


def _nested(path: Path, random: Random) -> str:
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    path.write_text(opening * DEEP + ("0" if opening != "[" else "") + closing * DEEP)
    return f"nested {DEEP} deep"


def _header(path: Path, random: Random) -> str:
    """A safetensors file with another header."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    texts = header.get("__metadata__", {})
    if "hetsched" in texts and random.random() < 0.5:
        inner, said = changed(json.loads(texts["hetsched"]), random)
        texts["hetsched"] = dumped(inner)
    else:
        header, said = changed(header, random)
    header = dumped(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
    return f"header: {said}"


def _line(path: Path, random: Random) -> str:
    lines = path.read_text().splitlines()
    at = random.randrange(len(lines))
    cells = lines[at].split(",")
    cells[random.randrange(len(cells))] = str(random.choice(HOSTILE))[:400]
    lines[at] = ",".join(cells) if random.random() < 0.9 else ""
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return f"line {at + 1}"
