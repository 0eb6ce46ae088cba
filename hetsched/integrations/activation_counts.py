"""Counting which experts the tokens of prompts choose, in one forward pass a prompt. Shapes: T tokens, L, K, E."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..steering.difference import Activations
from ..types import BoolArray, IntArray
from .expert_modules import expert_modules
from .recording import recording


class Prompt(NamedTuple):
    """Token ids of a prompt [T], and which of them are counted; those that a tokenizer adds are not."""

    ids_T: Sequence[int]
    counted_T: BoolArray


def count_activations(
    model: Any, prompts: Sequence[Prompt], progress: Callable[[int], None] = lambda done: None
) -> tuple[Activations, int]:
    """Counts of all prompts, each read by itself, and top-k; the model may be attached, steered, or neither.

    Raises InputError for a model without routed experts, or whose layers choose unlike numbers of experts.
    """
    modules = expert_modules(model)
    experts, top_k = max(int(module.num_experts) for module in modules), 1
    made = Activations(len(modules), experts)
    with recording(model) as recorder, torch.inference_mode():
        for number, prompt in enumerate(prompts, 1):
            ids_1T = torch.tensor([list(prompt.ids_T)], device=model.device)
            model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), use_cache=False)
            (only,) = recorder.take()
            counted_NLK = only.experts_TLK[prompt.counted_T].astype(np.int64)
            made.add(_counts(counted_NLK, experts), len(counted_NLK))
            top_k = counted_NLK.shape[2]
            progress(number)
    return made, top_k


def _counts(experts_NLK: IntArray, experts: int) -> IntArray:
    """Tokens of each layer that chose each expert [L, E]."""
    layers = experts_NLK.shape[1]
    flat = experts_NLK + experts * np.arange(layers)[:, None]
    counts_LE: IntArray = np.bincount(flat.reshape(-1), minlength=layers * experts).reshape(layers, experts)
    return counts_LE
