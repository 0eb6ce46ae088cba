"""A prompt as token ids: plain, or through the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetsched.errors import InputError
from hetsched.reading import refusing

from .rendering import check_rendering

Message = dict[str, str]  # role ("system", "user" or "assistant") and content


def check_prompt(prompt: str) -> None:
    """Raise InputError for a prompt without tokens."""
    if not prompt.strip():
        raise InputError("the prompt has no tokens; give --prompt some text")


def check_ids(ids: Any, vocabulary: int) -> None:
    """Raise InputError for a prompt whose token ids, of any shape, are none, or beyond a model's vocabulary."""
    again = "the tokenizer's files are damaged, or another model's; download them again"
    numbers = np.asarray(ids).reshape(-1)
    if not len(numbers):
        raise InputError(f"the tokenizer makes no tokens of the prompt: {again}")
    if int(numbers.max()) >= vocabulary:
        raise InputError(f"the tokenizer makes token {numbers.max()} of the prompt, of {vocabulary} there are: {again}")


def encode(tokenizer: Any, prompt: str, system: str | None = None) -> Any:
    """Token ids [1, T] of a prompt, through the chat template where there is one.

    `system`: what the model is told before, instead of what its template says. Raises InputError for no tokens, and for
    a system text where there is no template.
    """
    check_prompt(prompt)
    if has_template(tokenizer):
        return encode_messages(tokenizer, [*system_message(system), {"role": "user", "content": prompt}])
    if system is not None:
        require_template(tokenizer, "--system")
    with refusing("the tokenizer makes no tokens of the prompt", "download its files again"):
        return tokenizer(prompt, return_tensors="pt")["input_ids"]


def encode_messages(tokenizer: Any, messages: Sequence[Message]) -> Any:
    """Token ids [1, T] of a chat up to where the model answers. Raises InputError where the template refuses it."""
    fix = "drop --system" if messages[0]["role"] == "system" else "correct the template"
    with refusing("this model's chat template refuses the prompt", fix):
        check_rendering(tokenizer, messages)
        encoded = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    return encoded["input_ids"]


def system_message(system: str | None) -> list[Message]:
    """The message that goes before all others; none for None."""
    return [] if system is None else [{"role": "system", "content": system}]


def require_template(tokenizer: Any, option: str) -> None:
    """Raise InputError where an option needs the chat template that there is not."""
    if not has_template(tokenizer):
        raise InputError(f"this model has no chat template, and {option} needs one; drop it")


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how its model's chats are written."""
    return bool(getattr(tokenizer, "chat_template", None))
