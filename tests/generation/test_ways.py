"""Every way to generate gives the tokens and logits of eager, bit for bit; and the phases are those of the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hetsched
from hetsched.types import Phase
from tests.conftest import tiny_moe

from .generating import ALONE, EMULATED, HERE, PADDED, REPEATED, generated, passes, same

P, D, V = Phase.PREFILL, Phase.DECODE, Phase.VERIFY
PLAIN = [(P, 21), (D, 3), (D, 3), (D, 3)]
# Options of generate, and the passes that follow: phase and tokens, padding and finished sequences counted.
WAYS: dict[str, tuple[dict[str, Any], list[tuple[Phase, int]]]] = {
    "left padding": ({}, PLAIN),
    "right padding": ({"ids": PADDED.flip(1)}, PLAIN),
    "a finished sequence": ({"eos_token_id": 112}, PLAIN),
    "sampling": ({"do_sample": True, "top_k": 10}, PLAIN),
    "several of each": ({"do_sample": True, "num_return_sequences": 2}, [(P, 42), (D, 6), (D, 6), (D, 6)]),
    "beams": ({"num_beams": 3}, [(P, 63), (D, 9), (D, 9), (D, 9)]),
    "sampled beams": ({"num_beams": 2, "do_sample": True}, [(P, 42), (D, 6), (D, 6), (D, 6)]),
    "processors": ({"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3}, PLAIN),
    "no cache": ({"use_cache": False}, [(P, 21), (P, 24), (P, 27), (P, 30)]),
    "static cache": ({"cache_implementation": "static"}, PLAIN),
    "two passes a token": (
        {"ids": ALONE, "guidance_scale": 1.5},
        [(P, 12), (P, 1), (D, 1), (D, 1), (D, 1), (D, 1), (D, 1), (D, 1)],
    ),
    "chunks": ({"ids": ALONE, "prefill_chunk_size": 5}, [(P, 5), (P, 5), (P, 2), (D, 1), (D, 1), (D, 1)]),
    "padded chunks": ({"prefill_chunk_size": 4}, [(P, 12), (P, 9), (D, 3), (D, 3), (D, 3)]),
    "static chunks": (
        {"prefill_chunk_size": 4, "cache_implementation": "static"},
        [(P, 12), (P, 9), (D, 3), (D, 3), (D, 3)],
    ),
    "a last chunk of one token": ({"prefill_chunk_size": 6}, [(P, 18), (D, 3), (D, 3), (D, 3), (D, 3)]),
    "prompt look-up": (
        {"ids": REPEATED, "prompt_lookup_num_tokens": 3, "new_tokens": 8},
        [(P, 15), *[(D, 1)] * 5, (V, 3), (D, 1)],
    ),
}
HALF = ("left padding", "beams", "static cache", "padded chunks", "prompt look-up")


@pytest.mark.parametrize("way", WAYS)
def test_tokens_and_logits_are_those_of_eager(way: str) -> None:
    """Under no_grad, which generate sets, and under inference_mode."""
    model, (options, expected) = tiny_moe(), WAYS[way]
    eager = generated(model, **options)
    with hetsched.attach(model, **EMULATED) as handle:
        with passes(handle) as seen:
            ours = generated(model, **options)
        with torch.inference_mode():
            again = generated(model, **options)
        handle.scheduler.residency.check()
        assert handle.stats()["tokens"] == 2 * sum(tokens for _, tokens in expected)
    assert same(ours, eager)
    assert same(again, eager)
    assert seen == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_too(dtype: torch.dtype) -> None:
    model = tiny_moe().to(dtype)
    eager = {way: generated(model, **WAYS[way][0]) for way in HALF}
    with hetsched.attach(model, **EMULATED):
        assert all(same(generated(model, **WAYS[way][0]), eager[way]) for way in HALF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_an_accelerator_too(dtype: torch.dtype) -> None:
    model = tiny_moe().to(dtype)
    eager = {way: generated(model, **WAYS[way][0]) for way in HALF}
    with hetsched.attach(model, **HERE):
        assert all(same(generated(model, **WAYS[way][0]), eager[way]) for way in HALF)


@pytest.mark.parametrize("sampled", [False, True])
def test_an_assistant_drafts(sampled: bool) -> None:
    """The model verifies what a smaller one drafts; both may be attached."""
    model, assistant = tiny_moe(), tiny_moe(layers=2)
    options = {"assistant_model": assistant, "do_sample": sampled, "new_tokens": 6}
    eager = generated(model, ALONE, **options)
    with hetsched.attach(model, **EMULATED) as handle, hetsched.attach(assistant, **EMULATED) as other:
        with passes(handle) as seen, passes(other) as drafted:
            ours = generated(model, ALONE, **options)
        assert other.stats()["steps"] == len(drafted) > 0
    assert same(ours, eager)
    assert seen[0][0] is P
    assert {phase for phase, tokens in seen[1:] if tokens > 1} == {V}
