"""The dense model's own chats: what it is calibrated on, as its training text is not at hand.

Shapes: N rows (chats), S positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from hetsched.demo_model.progress import Tick
from hetsched.demo_model.trace import Trace, recording

TEMPERATURE = 0.7  # this small model loses the thread when sampled hotter
CANDIDATES = 50  # most probable tokens to draw from


def first_turn(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a chat up to where the assistant starts to answer `prompt`."""
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


def next_turn(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids between the end of one answer and the start of the answer to `prompt`."""
    text = f"\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    return list(tokenizer.encode(text, add_special_tokens=False))


def chat_turns(tokenizer: Any, prompts: list[str], rows: int, turns: int = 8) -> list[list[list[int]]]:
    """For each row its turns, as token ids: [rows][turns][tokens]; `prompts` are used up in order, cyclically."""
    chats: list[list[list[int]]] = []
    for row in range(rows):
        mine = [prompts[(row + turn * rows) % len(prompts)] for turn in range(turns)]
        chats.append([first_turn(tokenizer, mine[0]), *(next_turn(tokenizer, prompt) for prompt in mine[1:])])
    return chats


@torch.inference_mode()
def sample_chats(model: Any, chats: list[list[list[int]]], length: int, *, eos: int, seed: int, tick: Tick) -> Trace:
    """Trace of one chat per row, each exactly `length` tokens: where an answer ends, the next turn is asked.

    All rows advance together, one token a step, so there is no padding anywhere. Tokens that belong to a question
    are forced, those of an answer are drawn from the model at `TEMPERATURE` among its `CANDIDATES` best.
    """
    from transformers import DynamicCache

    trace = Trace.empty(model, len(chats), length)
    forced = [list(chat[0]) for chat in chats]
    later = [list(chat[1:]) for chat in chats]
    # All chats open with the same system prompt, and no opening is shorter than this prefill.
    prefill = min(length, *(len(tokens) for tokens in forced))
    for row, tokens in enumerate(forced):
        trace.tokens_NS[row, :prefill] = torch.tensor(tokens[:prefill])
        del tokens[:prefill]
    draw = torch.Generator().manual_seed(seed)
    cache = DynamicCache(config=model.config)
    with recording(model, trace) as place:
        start = 0
        for end in range(prefill, length + 1):
            place[1] = slice(start, end)
            logits_NV = model(
                trace.tokens_NS[:, start:end], past_key_values=cache, use_cache=True, logits_to_keep=1
            ).logits[:, -1]
            start = end
            tick(end / length)
            if end < length:
                trace.tokens_NS[:, end] = _next_tokens(_draw(logits_NV, draw).tolist(), forced, later, eos)
    return trace


def _draw(logits_NV: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """One token per row, drawn: int64 [N]."""
    best = logits_NV.topk(CANDIDATES)
    pick_N1 = torch.multinomial((best.values / TEMPERATURE).softmax(-1), 1, generator=draw)
    return best.indices.gather(1, pick_N1)[:, 0]


def _next_tokens(chosen: list[int], forced: list[list[int]], later: list[list[list[int]]], eos: int) -> torch.Tensor:
    """Token of each row [N]: the forced one where a question is being asked, else the chosen one."""
    for row, token in enumerate(chosen):
        if forced[row]:
            chosen[row] = forced[row].pop(0)
        elif token == eos and later[row]:
            forced[row] = later[row].pop(0)
    return torch.tensor(chosen)
