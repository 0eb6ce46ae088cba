"""Every architecture of the installed transformers: forced-off experts never run, forced-on ones do for every token."""

from __future__ import annotations

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.steering import steered
from hetsched.steering.file import Forced
from tests.architectures.discovery import expert_classes
from tests.architectures.experts_alone import EMULATED
from tests.architectures.test_models import build, outputs
from tests.steering.made import asked_of, broken, contrary, steering_for

# Routers that cannot be steered, and what is said of them; all others can.
REFUSED = {
    "deepseek_v4.DeepseekV4Experts": "layer 0: DeepseekV4HashRouter routes by input_ids",  # its first layers only
    "zaya.ZayaExperts": "layer 0: ZayaRouter computes 4 linear maps that could be its logits",
}
EXPERTS = 8
# Plain softmax; sigmoid with bias and groups; a softmax of the chosen; a bias that the block holds; a loop of maxima.
ATTACHED = ("mixtral.MixtralExperts", "deepseek_v3.DeepseekV3Experts", "gpt_oss.GptOssExperts")
ATTACHED = (*ATTACHED, "afmoe.AfmoeExperts", "phimoe.PhimoeExperts")


@pytest.mark.parametrize("name", sorted({*expert_classes()} - {*REFUSED}))
def test_the_contrary_of_what_a_model_chooses(name: str) -> None:
    """The least chosen experts on, the most chosen off, in prefill and decoding; afterwards the model is as it was."""
    torch.manual_seed(0)
    model = build(name)
    with asked_of(model) as seen:
        before = outputs(model)
    top_k = next(iter(seen.values()))[0][0].shape[-1]
    layers = contrary(seen, int(expert_modules(model)[-1].num_experts))
    assert broken(seen, layers)  # else the test below says nothing
    steering = steering_for(model, layers, top_k)
    with steered(model, steering), asked_of(model) as seen:
        outputs(model)
    assert broken(seen, layers) == []
    for calls in seen.values():
        for ids_TK, weights_TK in calls:
            assert ids_TK.shape[-1] == top_k
            assert torch.isfinite(weights_TK).all()
            assert all(len(set(row)) == top_k for row in ids_TK.tolist())
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), before, strict=True))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_router_that_cannot_be_steered_is_refused(name: str) -> None:
    """By its class, in one line, before any token; the model is as it was."""
    model = build(name)
    before = outputs(model)
    with pytest.raises(InputError) as caught, steered(model, steering_for(model, {0: Forced((), (1,))})):
        raise AssertionError("it was steered")
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), before, strict=True))


@pytest.mark.parametrize("name", ATTACHED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attached_models_are_steered_alike(name: str, dtype: torch.dtype) -> None:
    """The engine is asked for what is forced on, never for what is off; tokens are the plain steered model's."""
    torch.manual_seed(0)
    model = build(name).to(dtype)
    with asked_of(model) as seen:
        before = outputs(model)
    steering = steering_for(model, contrary(seen, EXPERTS), next(iter(seen.values()))[0][0].shape[-1])
    with steered(model, steering):
        plain = outputs(model)
    with hetsched.attach(model, steer=steering, **EMULATED) as handle:
        demands = []
        step = handle.scheduler.step
        handle.scheduler.step = lambda demand, *link: (demands.append(demand), step(demand, *link))[1]  # type: ignore[method-assign]
        ours = outputs(model)
        handle.scheduler.residency.check()
        assert handle.stats()["lossless"] is False
    assert demands
    for demand in demands:
        forced = steering.layers[demand.layer]
        assert all(demand.tokens_of(expert) == demand.num_tokens for expert in forced.activate)
        assert not any(demand.tokens_of(expert) for expert in forced.deactivate)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), before, strict=True))
