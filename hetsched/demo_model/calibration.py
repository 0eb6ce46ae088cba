"""The text: rows to fit on and rows held out, mostly the dense model's own chats, the rest English prose.

The prose is the Python language reference, which every Python installation carries (`pydoc_data.topics`).

Shapes: N rows, S positions of a row, L layers, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hetsched.demo_model.progress import Tick
from hetsched.demo_model.prompts import chat_prompts
from hetsched.demo_model.sampling import chat_turns, sample_chats
from hetsched.demo_model.trace import Trace, join, recording

SEED = 20250207
PROSE_BATCH = 8  # rows of one forward pass


@dataclass(frozen=True)
class Sizes:
    """Rows of each kind, and their length in tokens."""

    length: int = 144
    chat_fit: int = 80
    chat_held: int = 16
    prose_fit: int = 24
    prose_held: int = 14


@dataclass
class Calibration:
    """The dense model's trace over all rows, and which rows are what.

    The first `fit_rows` rows are fitted to. `own` and `prose` are the rows held out, never fitted to.
    """

    trace: Trace
    fit_rows: int
    own: slice
    prose: slice


def gather(model: Any, tokenizer: Any, tick: Tick, sizes: Sizes | None = None) -> Calibration:
    """The calibration rows of the dense `model`, sampled and read in `sizes`."""
    size = sizes or Sizes()
    chats = size.chat_fit + size.chat_held
    turns = chat_turns(tokenizer, chat_prompts(SEED), chats)
    chat_share = chats / (chats + (size.prose_fit + size.prose_held) / 2)
    own = sample_chats(
        model, turns, size.length, eos=tokenizer.eos_token_id, seed=SEED, tick=lambda done: tick(done * chat_share)
    )
    prose_NS = torch.cat(prose_rows(tokenizer, size))
    prose = read_rows(model, prose_NS, lambda done: tick(chat_share + done * (1 - chat_share)))
    fit_rows = size.chat_fit + size.prose_fit
    parts = [own[: size.chat_fit], prose[: size.prose_fit], own[size.chat_fit :], prose[size.prose_fit :]]
    return Calibration(
        trace=join(parts),
        fit_rows=fit_rows,
        own=slice(fit_rows, fit_rows + size.chat_held),
        prose=slice(fit_rows + size.chat_held, None),
    )


def prose_rows(tokenizer: Any, size: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows of prose, to fit on and held out: int64 [N, S] each, from different chapters."""
    from pydoc_data.topics import topics

    chapters = [topics[name] for name in sorted(topics)]
    kept = "\n\n".join(text for i, text in enumerate(chapters) if i % 4)
    held = "\n\n".join(text for i, text in enumerate(chapters) if i % 4 == 0)
    return _windows(tokenizer, kept, size.prose_fit, size.length), _windows(
        tokenizer, held, size.prose_held, size.length
    )


def _windows(tokenizer: Any, text: str, rows: int, length: int) -> torch.Tensor:
    """`rows` windows of `length` tokens, spread evenly over `text`: int64 [N, S]."""
    chars = len(text) // rows
    # English takes well under 8 characters a token, so each piece holds a full window.
    pieces = [text[i * chars : i * chars + min(chars, 8 * length)] for i in range(rows)]
    ids = [tokenizer.encode(piece, add_special_tokens=False)[:length] for piece in pieces]
    return torch.tensor(ids)


@torch.inference_mode()
def read_rows(model: Any, tokens_NS: torch.Tensor, tick: Tick) -> Trace:
    """Trace of `model` over given rows."""
    trace = Trace.empty(model, *tokens_NS.shape)
    trace.tokens_NS.copy_(tokens_NS)
    with recording(model, trace) as place:
        for start in range(0, len(tokens_NS), PROSE_BATCH):
            place[0] = slice(start, start + PROSE_BATCH)
            model(tokens_NS[place[0]], use_cache=False, logits_to_keep=1)
            tick(min(1.0, (start + PROSE_BATCH) / len(tokens_NS)))
    return trace
