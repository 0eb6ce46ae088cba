"""What stands on an expert module while its model is attached: nothing beside the call, and no wrapper is lost."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations import door
from hetsched.integrations.expert_modules import expert_modules
from tests.conftest import tiny_moe
from tests.generation.generating import ALONE, EMULATED, HERE, generated, same


def wrap(module: Any) -> list[int]:
    """As accelerate's hooks do: a forward of the module's own around what was its forward; counts calls."""
    calls, before = [0], module.forward

    def forward(*given: Any) -> Any:
        calls[0] += 1
        return before(*given)

    module.forward = forward
    return calls


def test_no_hook_runs_beside_a_call(model: Any) -> None:
    modules = expert_modules(model)
    with hetsched.attach(model, **EMULATED):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        assert all("forward" in vars(module) for module in modules)
    assert not any("forward" in vars(module) for module in modules)


@pytest.mark.parametrize("first", [True, False])
def test_a_wrapper_around_a_module_is_left_in_place(model: Any, first: bool) -> None:
    """Put there before attach() or after: called while attached, counted, and of use after detach()."""
    expected, modules = generated(model), expert_modules(model)
    calls = wrap(modules[0]) if first else [0]
    with hetsched.attach(model, **EMULATED) as handle:
        calls = calls if first else wrap(modules[0])
        assert same(generated(model), expected)
        assert handle.stats()["modules_served"] == 3
    assert calls == [4]
    assert same(generated(model), expected)
    assert calls == [8]
    assert [name for name in vars(modules[0]) if name == "forward" or "hetsched" in name] == ["forward"]


@pytest.mark.parametrize("way", [EMULATED, HERE], ids=["emulated", "cpu"])
def test_another_implementation_is_refused_before_anything_runs(model: Any, way: dict[str, Any]) -> None:
    """By the model, by the inner model called alone, and by one module."""
    given = torch.randn(2, 32), torch.tensor([[0, 3], [1, 2]]), torch.rand(2, 2)
    with torch.no_grad(), hetsched.attach(model, **way) as handle:
        model.set_experts_implementation("eager")
        for module, inputs in ((model, (ALONE,)), (model.model, (ALONE,)), (expert_modules(model)[2], given)):
            with pytest.raises(InputError, match=r"layer 0 .* would run outside hetsched, .*'eager'; call detach\(\)"):
                module(*inputs)
        assert handle.stats()["layers"] == 0
        model.set_experts_implementation("hetsched")
        model(ALONE)
        assert handle.stats()["layers"] == 3


def test_numbers_of_places_go_with_their_model() -> None:
    gc.collect()
    before = set(door._OPENED)
    model, other = tiny_moe(), tiny_moe(seed=1)
    hetsched.attach(model, **HERE)
    with hetsched.attach(other, **HERE):
        numbers = set(door._OPENED) - before
        assert len(numbers) == 6
        del model
        gc.collect()
        assert len(numbers & set(door._OPENED)) == 3
    assert set(door._OPENED) == before
    with hetsched.attach(other, **HERE):
        assert not numbers & set(door._OPENED)
