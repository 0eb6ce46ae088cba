"""The text: rows to fit on and rows held out, mostly the dense model's own chats, the rest English prose.

The prose is the Python language reference, which every Python installation carries (`pydoc_data.topics`).

Shapes: N rows, S positions of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hetsched.demo_model.progress import Tick
from hetsched.demo_model.prompts import asked_prompts
from hetsched.demo_model.sampling import chat_turns, sample_chats

SEED = 20250207


@dataclass(frozen=True)
class Sizes:
    """Rows of each kind, and their length in tokens."""

    length: int = 160
    chat_fit: int = 96
    chat_held: int = 16
    prose_fit: int = 24
    prose_held: int = 14


@dataclass(frozen=True)
class Calibration:
    """Rows of tokens, int64 [N, S], and which are what.

    The first `fit_rows` rows are fitted to. `own` and `prose` are the rows held out, never fitted to.
    """

    tokens_NS: torch.Tensor
    fit_rows: int
    own: slice
    prose: slice


def gather(model: Any, tokenizer: Any, tick: Tick, sizes: Sizes, dtype: torch.dtype) -> Calibration:
    """The calibration rows of the dense `model`, its chats sampled with products in `dtype`."""
    chats = sizes.chat_fit + sizes.chat_held
    turns = chat_turns(tokenizer, asked_prompts(SEED), chats)
    own_NS = sample_chats(model, turns, sizes.length, eos=tokenizer.eos_token_id, seed=SEED, tick=tick, dtype=dtype)
    fit_NS, held_NS = prose_rows(tokenizer, sizes)
    fit_rows = sizes.chat_fit + sizes.prose_fit
    return Calibration(
        torch.cat([own_NS[: sizes.chat_fit], fit_NS, own_NS[sizes.chat_fit :], held_NS]),
        fit_rows=fit_rows,
        own=slice(fit_rows, fit_rows + sizes.chat_held),
        prose=slice(fit_rows + sizes.chat_held, None),
    )


def prose_rows(tokenizer: Any, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows of prose, to fit on and held out: int64 [N, S] each, from different chapters."""
    from pydoc_data.topics import topics

    chapters = [topics[name] for name in sorted(topics)]
    kept = "\n\n".join(text for i, text in enumerate(chapters) if i % 4)
    held = "\n\n".join(text for i, text in enumerate(chapters) if i % 4 == 0)
    return _windows(tokenizer, kept, sizes.prose_fit, sizes.length), _windows(
        tokenizer, held, sizes.prose_held, sizes.length
    )


def _windows(tokenizer: Any, text: str, rows: int, length: int) -> torch.Tensor:
    """`rows` windows of `length` tokens, spread evenly over `text`: int64 [N, S]."""
    chars = len(text) // rows
    # English takes well under 8 characters a token, so each piece holds a full window.
    pieces = [text[i * chars : i * chars + min(chars, 8 * length)] for i in range(rows)]
    ids = [tokenizer.encode(piece, add_special_tokens=False)[:length] for piece in pieces]
    return torch.tensor(ids)
