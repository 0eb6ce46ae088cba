"""torch.autocast reaches the lanes: what eager casts inside it, they cast, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hetsched
from tests.architectures.discovery import expert_class
from tests.architectures.experts_alone import hidden, routing, stack
from tests.conftest import tiny_moe

from .generating import EMULATED, HERE, generated, same

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(("weights", "cast"), [(FP32, BF16), (FP32, FP16), (BF16, FP16)])
def test_generation_is_that_of_eager(weights: torch.dtype, cast: torch.dtype) -> None:
    """Weights of one dtype, products of another; with and without an accelerator."""
    model = tiny_moe().to(weights)
    with torch.autocast("cpu", cast):
        eager = generated(model)
    for options in (EMULATED, HERE):
        with hetsched.attach(model, **options):
            with torch.autocast("cpu", cast):
                assert same(generated(model), eager)
                with torch.autocast("cpu", enabled=False):
                    plain = generated(model)
            assert same(generated(model), plain)
    assert not same(plain, eager)


def test_the_lanes_cast_only_while_the_caller_does() -> None:
    """Entering and leaving autocast between two passes."""
    model, ids = tiny_moe(), torch.arange(3, 12)[None]
    with torch.no_grad():
        plain = model(ids).logits
        with torch.autocast("cpu", BF16):
            cast = model(ids).logits
        assert not torch.equal(plain, cast)
        with hetsched.attach(model, **EMULATED):
            assert torch.equal(model(ids).logits, plain)
            with torch.autocast("cpu", BF16):
                assert torch.equal(model(ids).logits, cast)
            assert torch.equal(model(ids).logits, plain)


# One class for each way to round: plain, sums in fp32, everything in fp32, biased and transposed, no gate, normed.
ROUNDING = (
    "mixtral.MixtralExperts",
    "inkling2.Inkling2Experts",
    "openai_privacy_filter.OpenAIPrivacyFilterExperts",
    "gpt_oss.GptOssExperts",
    "nemotron_h.NemotronHExperts",
    "muse_spark.MuseSparkExperts",
)


@pytest.mark.parametrize("name", ROUNDING)
def test_every_way_to_round(name: str) -> None:
    """Attached outside autocast or inside: where the class rounds is found out without it."""
    made: Any = stack(expert_class(name))
    given = hidden(made.layers[0], 7), *routing(7)
    with torch.no_grad(), torch.autocast("cpu", BF16):
        eager = made(*given)
        for options in (EMULATED, HERE):
            with hetsched.attach(made, **options):
                assert torch.equal(made(*given), eager)
    with torch.no_grad(), hetsched.attach(made, **EMULATED), torch.autocast("cpu", BF16):
        assert torch.equal(made(*given), eager)
