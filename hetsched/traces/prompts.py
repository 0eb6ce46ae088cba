"""Files of prompts: plain text with one a line, or JSONL with a "prompt" on each."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import InputError
from ..reading import parse_json, read_text_file


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, blank lines left out; .jsonl files hold objects with "prompt", others one text a line.

    Raises InputError naming the line that is wrong.
    """
    path = Path(path)
    lines = read_text_file(path, "a file of prompts").splitlines()
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise InputError(f"{path} has no prompts; write one a line")
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return [line for _, line in numbered]
    return [_of_object(path, number, line) for number, line in numbered]


def digest(prompts: list[str]) -> str:
    """A short name of the prompts' contents."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]


def _of_object(path: Path, number: int, line: str) -> str:
    try:
        prompt = parse_json(line)["prompt"]
    except (ValueError, TypeError, KeyError):
        prompt = None
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f'{path}, line {number}: expected an object with a text "prompt"')
    return prompt
