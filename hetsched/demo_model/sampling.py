"""The dense model's own chats: what it is calibrated on, as its training text is not at hand.

Shapes: N rows (chats), S positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from hetsched.demo_model.decoder import Decoder
from hetsched.demo_model.progress import Tick

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


def sample_chats(
    model: Any, chats: list[list[list[int]]], length: int, *, eos: int, seed: int, tick: Tick, dtype: torch.dtype
) -> torch.Tensor:
    """One chat per row, each exactly `length` tokens, int64 [N, S]: where an answer ends, the next turn is asked.

    All rows advance together, one token a step, so there is no padding anywhere. Tokens that belong to a question
    are forced, those of an answer are drawn from the model, in `dtype`, at `TEMPERATURE` among its `CANDIDATES` best.
    """
    forced, later = [list(chat[0]) for chat in chats], [list(chat[1:]) for chat in chats]
    tokens_NS = torch.zeros(len(chats), length, dtype=torch.int64)
    tokens_NS[:, 0] = torch.tensor([tokens.pop(0) for tokens in forced])
    draw = torch.Generator().manual_seed(seed)
    decoder = Decoder(model, len(chats), length, dtype)
    for position in range(length - 1):
        logits_NV = decoder.step(tokens_NS[:, position], position)
        tokens_NS[:, position + 1] = _next_tokens(_draw(logits_NV.float(), draw).tolist(), forced, later, eos)
        tick((position + 1) / length)
    return tokens_NS


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
