"""Every decorated expert class of the installed transformers, alone: the engine's bits are those of its own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hetsched

from .discovery import MODELS, expert_class, expert_classes
from .experts_alone import EMULATED, EXPERTS, Stack, hidden, routing, stack

FP32, BF16 = torch.float32, torch.bfloat16
# Of the experts' weights and hidden states; and, for each, of the router's weights.
DTYPES = {FP32: [FP32], BF16: [FP32, BF16]}
# Their eager forward cannot take an id of no expert (the error it gives). The engine adds nothing for such ids.
EAGER_REFUSES_SENTINELS: dict[str, tuple[type[Exception], str]] = {
    "gpt_oss.GptOssExperts": (RuntimeError, "num_classes"),
    "nemotron_h.NemotronHExperts": (IndexError, "out of bounds"),
    "openai_privacy_filter.OpenAIPrivacyFilterExperts": (RuntimeError, "num_classes"),
}


def test_there_are_classes() -> None:
    """The pinned transformers has 65; a later one may have more. Each decorator is one of a class that was found."""
    texts = [path.read_text() for path in MODELS.glob("*/modeling_*.py")]
    assert len(expert_classes()) == sum(text.count("\n@use_experts_implementation") for text in texts) >= 65


def cases(made: Stack, dtype: torch.dtype) -> dict[tuple[str, torch.dtype], tuple[torch.Tensor, ...]]:
    """Inputs by what is special about them, and the dtype of the router's weights."""
    found = {}
    for tokens in (1, 7):
        found[f"{tokens} tokens"] = (hidden(made.layers[0], tokens), *routing(tokens))
    ids_TK, weights_TK = routing(5, seed=2)
    repeated = ids_TK.clone()
    repeated[:, 2] = repeated[:, 0]
    found["an id twice in a row"] = hidden(made.layers[0], 5), repeated, weights_TK
    found["k = 1"] = hidden(made.layers[0], 5), ids_TK[:, :1].contiguous(), weights_TK[:, :1].contiguous()
    found["no token"] = hidden(made.layers[0], 0), ids_TK[:0], weights_TK[:0]
    return {
        (name, router): (h.to(dtype), ids, w.to(router))
        for name, (h, ids, w) in found.items()
        for router in DTYPES[dtype]
    }


@pytest.mark.parametrize("name", expert_classes())
def test_bits_are_those_of_eager(name: str) -> None:
    """Weights, hidden states and router weights in three combinations of dtypes; both lanes at work."""
    for dtype in DTYPES:
        made = stack(expert_class(name)).to(dtype)
        inputs = cases(made, dtype)
        with torch.no_grad():
            eager = {case: made(*given) for case, given in inputs.items()}
            with hetsched.attach(made, **EMULATED) as handle:
                for case, given in inputs.items():
                    ours = made(*given)
                    assert ours.dtype == eager[case].dtype, (case, dtype)
                    assert torch.equal(ours, eager[case]), (case, dtype)
                stats = handle.stats()
                handle.scheduler.residency.check()
        assert stats["modules"] == stats["modules_served"] == 2
        assert all(torch.isfinite(out).all() for out in eager.values())
        assert eager["7 tokens", DTYPES[dtype][0]].abs().max() > 0.01


@pytest.mark.parametrize("name", expert_classes())
def test_ids_of_no_expert_add_nothing(name: str) -> None:
    """Expert parallelism marks experts of other ranks with the id num_experts and weight 0."""
    made = stack(expert_class(name), layers=1)
    ids_TK, weights_TK = routing(6, seed=3)
    gone_TK = torch.zeros_like(ids_TK, dtype=torch.bool)
    gone_TK[:, 1::2] = True
    gone_TK[4] = True
    sentinels, weights = ids_TK.masked_fill(gone_TK, EXPERTS), weights_TK.masked_fill(gone_TK, 0.0)
    tokens = hidden(made.layers[0], 6)
    with torch.no_grad():
        if name in EAGER_REFUSES_SENTINELS:
            error, message = EAGER_REFUSES_SENTINELS[name]
            with pytest.raises(error, match=message):
                made(tokens, sentinels, weights)
            expected = made(tokens, ids_TK, weights)
        else:
            expected = made(tokens, sentinels, weights)
        with hetsched.attach(made, **EMULATED):
            ours = made(tokens, sentinels, weights)
            nobody = made(tokens, torch.full_like(ids_TK, EXPERTS), torch.zeros_like(weights))
    if name in EAGER_REFUSES_SENTINELS:  # eager then multiplies more rows at a time, which rounds otherwise
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(ours, expected)
    assert torch.equal(nobody, torch.zeros_like(nobody))


def test_router_weights_for_all_experts() -> None:
    """[T, E] weights are picked by id: the same as [T, K]."""
    made = stack(expert_class("mixtral.MixtralExperts"))
    ids_TK, weights_TK = routing(6)
    all_TE = torch.full((6, EXPERTS), 9.0).scatter(1, ids_TK, weights_TK)
    tokens = hidden(made.layers[0], 6)
    with torch.no_grad():
        expected = made(tokens, ids_TK, weights_TK)
        with hetsched.attach(made, **EMULATED):
            assert torch.equal(made(tokens, ids_TK, all_TE), expected)


def test_a_class_that_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown way to compute an expert is an error at attach, never a wrong answer."""
    kind = expert_class("mixtral.MixtralExperts")
    made = stack(kind)
    right = kind.forward.__wrapped__

    def twice(self: Any, *args: Any) -> torch.Tensor:
        out: torch.Tensor = 2 * right(self, *args)
        return out

    monkeypatch.setattr(kind.forward, "__wrapped__", twice)
    with pytest.raises(hetsched.errors.InputError, match="MixtralExperts computes its experts in a way"):
        hetsched.attach(made, **EMULATED)
    assert made.config._experts_implementation == "eager"
    assert hetsched.attachment_of(made) is None
