"""Models loaded with experts_implementation="hetsched" attach themselves whole, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen2MoeForCausalLM
from transformers.modeling_layers import MtpModel

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.running import running_model
from tests.architectures.experts_alone import Stack
from tests.architectures.test_models import asking, build
from tests.architectures.test_shapes import uneven
from tests.architectures.tiny import randomised
from tests.conftest import tiny_moe

from .generating import ALONE, EMULATED, HERE, generated, same


@pytest.fixture(autouse=True)
def _attach_on_emulated() -> Iterator[None]:
    with hetsched.defaults(**EMULATED):
        yield


def test_layers_with_different_numbers_of_experts() -> None:
    """No transformers model around them: the outermost module is the model."""
    made = uneven(4, 8, 4)
    given = torch.randn(5, 32), torch.tensor([[0, 3], [1, 2], [3, 0], [2, 1], [1, 3]]), torch.rand(5, 2)
    with torch.no_grad():
        eager = made(*given)
        assert torch.equal(asking(made)(*given), eager)
    handle = hetsched.attachment_of(made)
    assert handle is not None
    assert handle.geometry.experts_L == (4, 8, 4)
    handle.detach()


@pytest.mark.parametrize("itself", [False, True])
def test_heads_that_draft_are_computed_by_transformers(monkeypatch: pytest.MonkeyPatch, itself: bool) -> None:
    """Multi-token prediction makes expert modules in the middle of generation: counted, and nothing differs."""

    def heads(model: Any, **_: Any) -> Any:
        made = MtpModel(model, 1)
        randomised(made.layers)
        return made.eval()

    monkeypatch.setattr(MtpModel, "from_pretrained", staticmethod(heads))
    model = build("deepseek_v3.DeepseekV3Experts")
    eager = generated(model, ALONE, use_mtp=True)
    handle = None if itself else hetsched.attach(model, **EMULATED)
    for _ in range(2):
        assert same(generated(asking(model) if itself else model, ALONE, use_mtp=True), eager)
        handle = handle or hetsched.attachment_of(model)
    assert handle is not None
    stats = handle.stats()
    handle.detach()
    assert stats["modules"] == 2
    assert stats["eager_calls"] > 0


def test_two_models_of_one_config_attach_apart() -> None:
    """Both asked for hetsched when they were loaded; one attached first says nothing about the other."""
    model = tiny_moe()
    sibling = Qwen2MoeForCausalLM(model.config).eval()
    eager = generated(model), generated(sibling)
    asking(model)
    assert same(generated(model), eager[0])
    assert same(generated(sibling), eager[1])
    handles = [hetsched.attachment_of(made) for made in (model, sibling)]
    assert handles[0] is not None
    assert handles[1] is not None
    assert handles[0] is not handles[1]
    for handle in handles:
        assert handle is not None
        assert handle.stats()["eager_calls"] == 0
        handle.detach()


def test_attaching_in_inference_mode_or_autocast_does_not_bind_the_model_to_it() -> None:
    for mode in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        model = tiny_moe()
        eager = generated(model)
        asking(model)
        with mode:
            generated(model)
        assert same(generated(model), eager)
        handle = hetsched.attachment_of(model)
        assert handle is not None
        handle.detach()


def test_the_model_is_found_through_its_callers() -> None:
    """The outermost transformers model, not the object that holds it."""
    model = tiny_moe(layers=1)
    found: list[Any] = []
    experts = expert_modules(model)[0]
    experts.register_forward_pre_hook(lambda module, _: found.append(running_model(module)))
    holder = Stack(model)
    holder.layers[0](ALONE)
    model.model(ALONE)
    torch.nn.Sequential(model)(ALONE)
    assert [type(one).__name__ for one in found] == ["Qwen2MoeForCausalLM", "Qwen2MoeModel", "Qwen2MoeForCausalLM"]
    assert running_model(experts) is experts


def test_a_model_cannot_move_to_a_device_in_the_middle_of_its_pass() -> None:
    """Refused with what to do instead, and the model is as it was."""
    from hetsched.accelerators.cpu import CpuAccelerator

    class Elsewhere(CpuAccelerator):
        device = torch.device("cuda", 0)

    model = asking(tiny_moe())
    with (
        hetsched.defaults(**HERE, gpu_memory=None, time_scale=None, accelerator=Elsewhere()),
        pytest.raises(InputError, match=r"runs on cpu and cannot move to cuda .* call hetsched.attach"),
    ):
        generated(model)
    assert hetsched.attachment_of(model) is None
    model.set_experts_implementation("eager")
    generated(model)
