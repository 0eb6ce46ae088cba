"""Torch's other modes: attached inside inference_mode, compiled, with gradients asked for; right or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from tests.architectures.discovery import expert_class
from tests.architectures.experts_alone import hidden, routing, stack
from tests.conftest import tiny_moe

from .generating import ALONE, EMULATED, HERE, generated, same


@pytest.mark.parametrize("options", [EMULATED, HERE])
def test_attaching_inside_inference_mode(options: dict[str, Any]) -> None:
    """What attach and detach leave behind is of use outside: the lanes write to it, and gradients pass through it."""
    model = tiny_moe()
    eager = generated(model)
    with torch.inference_mode():
        handle = hetsched.attach(model, **options)
        assert same(generated(model), eager)
    assert same(generated(model), eager)
    with torch.inference_mode():
        handle.detach()
    assert same(generated(model), eager)
    model(ALONE).logits.sum().backward()
    assert model.model.layers[0].mlp.experts.down_proj.grad.abs().max() > 0


def test_a_model_loaded_inside_inference_mode_is_refused() -> None:
    """Its parameters can never be exchanged for views of the store."""
    with torch.inference_mode():
        model = tiny_moe()
    with pytest.raises(InputError, match=r"made under torch.inference_mode; load the model outside") as caught:
        hetsched.attach(model, **EMULATED)
    assert "\n" not in str(caught.value)
    assert model.config._experts_implementation == "eager"


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_refused_never_wrong(frozen: bool) -> None:
    """A pass without no_grad gives eager's numbers; asking for a gradient through the experts is an error."""
    model = tiny_moe()
    if frozen:  # all but one layer's experts: no hidden state asks for a gradient
        model.requires_grad_(False)
        model.model.layers[0].mlp.experts.requires_grad_(True)
    eager = model(ALONE).logits
    with hetsched.attach(model, **EMULATED):
        ours = model(ALONE).logits
        assert torch.equal(ours, eager)
        with pytest.raises(InputError, match="keeps no gradients of experts"):
            ours.sum().backward()
    model(ALONE).logits.sum().backward()


def test_nothing_asks_for_a_gradient() -> None:
    """A frozen model without no_grad: no gradient is asked for, none is refused."""
    model = tiny_moe().requires_grad_(False)
    with hetsched.attach(model, **EMULATED):
        assert not model(ALONE).logits.requires_grad


def test_a_compiled_model_runs_its_experts_uncompiled() -> None:
    """torch.compile leaves the scheduler alone, and the operations around the experts keep their bits here."""
    made = stack(expert_class("mixtral.MixtralExperts"))
    given = [(hidden(made.layers[0], tokens), *routing(tokens)) for tokens in (5, 1)]
    with torch.no_grad():
        eager = [made(*one) for one in given]
        with hetsched.attach(made, **EMULATED) as handle:
            compiled = torch.compile(made, backend="eager")
            ours = [compiled(*one) for one in given]
            assert handle.stats()["layers"] == 4
    torch.compiler.reset()
    assert all(torch.equal(a, b) for a, b in zip(ours, eager, strict=True))
