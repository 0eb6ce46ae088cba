"""A prompt as token ids: plain, or through the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hetsched.errors import InputError

Message = dict[str, str]  # role ("system", "user" or "assistant") and content


def check_prompt(prompt: str) -> None:
    """Raise InputError for a prompt without tokens."""
    if not prompt.strip():
        raise InputError("the prompt has no tokens; give --prompt some text")


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
    return tokenizer(prompt, return_tensors="pt")["input_ids"]


def encode_messages(tokenizer: Any, messages: Sequence[Message]) -> Any:
    """Token ids [1, T] of a chat up to where the model answers. Raises InputError where the template refuses it."""
    from jinja2 import TemplateError

    try:
        encoded = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    except TemplateError as error:
        drop = "; drop --system" if messages[0]["role"] == "system" else ""
        raise InputError(f"this model's chat template refuses the prompt: {error}{drop}") from error
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
