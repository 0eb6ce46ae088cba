"""Whole models of every architecture, tiny and random: logits under attach are those of eager, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import hetsched
from hetsched.integrations.expert_modules import IMPLEMENTATION, expert_modules
from hetsched.integrations.transformers import register

from .discovery import expert_class, expert_classes, model_classes
from .experts_alone import EMULATED
from .overrides import CHANGES, EAGER_REFUSES_BF16, NOT_THESE, PARTLY_IDLE
from .tiny import randomised, tiny_config

PROMPT, NEW_TOKENS = 9, 2


def build(name: str) -> Any:
    """The most complete model that holds this expert class and can be built small."""
    package, kind = name.partition(".")[0], expert_class(name)
    for model_class in model_classes(package):
        if model_class.__name__ in NOT_THESE:
            continue
        model = model_class(tiny_config(model_class.config_class, CHANGES.get(package, {})))
        if any(type(module) is kind for module in model.modules()):
            return randomised(model)
    raise AssertionError(f"no model of {package} holds {name}; see overrides.py")


def outputs(model: Any) -> list[torch.Tensor]:
    """Prefill and a few decode steps where the model generates, else one forward pass."""
    ids = torch.arange(3, 3 + PROMPT)[None]
    if model.can_generate():
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True, **options
        )
        return [found.sequences, *found.logits]
    embeds = torch.randn((1, PROMPT, 32), generator=torch.Generator().manual_seed(1)).to(model.dtype)
    inputs = {"inputs_embeds": embeds} if "Talker" in type(model).__name__ else {"input_ids": ids}
    with torch.no_grad():
        return [model(**inputs)[0]]


def asking(model: Any) -> Any:
    """The model as if it had been loaded with experts_implementation="hetsched"."""
    register()
    for config in [module.config for module in expert_modules(model)] + [model.config]:
        config._experts_implementation_internal = IMPLEMENTATION
    return model


@contextlib.contextmanager
def counted(model: Any) -> Iterator[dict[Any, int]]:
    """Calls of each expert module."""
    calls: dict[Any, int] = {}
    hooks = [
        module.register_forward_hook(lambda module, *_: calls.update({module: calls.get(module, 0) + 1}))
        for module in expert_modules(model)
    ]
    yield calls
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", expert_classes())
def test_logits_are_those_of_eager(name: str) -> None:
    """Prefill and decode; every expert module that eager calls is served, as often. Then bf16, attached by itself."""
    torch.manual_seed(0)
    model = build(name)
    with counted(model) as calls:
        eager = outputs(model)
    with hetsched.attach(model, **EMULATED) as handle:
        scheduled = outputs(model)
        stats = handle.stats()
        handle.scheduler.residency.check()
    assert all(torch.isfinite(out).all() for out in eager)
    assert same(scheduled, eager)
    assert stats["layers"] == sum(calls.values()) > 0
    assert stats["modules_served"] == len(calls)
    assert stats["modules"] - len(calls) == PARTLY_IDLE.get(name, 0)
    assert model.config._experts_implementation == "eager"

    model.to(torch.bfloat16)
    if name in EAGER_REFUSES_BF16:
        with pytest.raises(RuntimeError, match=EAGER_REFUSES_BF16[name]):
            outputs(model)
        return
    eager = outputs(model)
    with hetsched.defaults(**EMULATED):
        scheduled = outputs(asking(model))
    own = hetsched.attachment_of(model)
    assert own is not None
    assert own.stats()["modules"] == stats["modules"]
    assert own.stats()["eager_calls"] == 0
    own.detach()
    assert same(scheduled, eager)


def same(ours: list[torch.Tensor], eager: list[torch.Tensor]) -> bool:
    """Bit for bit; what bf16 makes infinite or undefined must be so on both sides."""
    pairs = zip(ours, eager, strict=True)
    return all(a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in pairs)
