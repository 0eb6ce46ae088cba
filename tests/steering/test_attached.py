"""attach(steer=...): what it refuses, that it takes everything off again, and that a compiled graph is steered too."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.model_shape import layers_of
from hetsched.integrations.steering import routers_digest, steered
from hetsched.steering.file import Forced, Steering, save_steering
from tests.conftest import tiny_moe
from tests.steering.made import asked_of, broken, steering_for

EMULATED: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "50%", "time_scale": 1.0}
EMULATED["policy"] = "static-frequency"  # which needs no compiler
LAYERS = {0: Forced((1,), (2, 3)), 2: Forced((0, 5), ())}
IDS = torch.arange(3, 12)[None]


def digest_of(model: Any) -> str:
    return routers_digest(model, layers_of(expert_modules(model)))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def test_a_file_steers_and_says_so(model: Any, tmp_path: Path) -> None:
    save_steering(steering_for(model, LAYERS, routers=digest_of(model)), tmp_path / "mine.yaml")
    before = logits(model)
    with asked_of(model) as seen:
        handle = hetsched.attach(model, steer=tmp_path / "mine.yaml", **EMULATED)
        logits(model)
    stats = handle.stats()
    assert broken(seen, LAYERS) == []
    assert stats["lossless"] is False
    assert stats["gpu_precision"] == "exact"
    facts = stats["steered"]
    assert {key: facts[key] for key in ("file", "activated", "deactivated", "layers")} == {
        "file": "mine.yaml",
        "activated": 3,
        "deactivated": 2,
        "layers": 2,
    }
    handle.detach()
    handle.detach()
    assert torch.equal(logits(model), before)
    assert not [module for module in model.modules() if "forward" in module.__dict__]


def test_off_by_default(model: Any) -> None:
    with hetsched.attach(model, **EMULATED) as handle:
        stats = handle.stats()
    assert (stats["lossless"], stats["steered"]) == (True, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routers": "000000000000"}, "made with other router weights"),
        ({"shape": (2, 8, 4, 32)}, "this model has 3 layers of 8 experts"),
        ({"shape": (3, 8, 3, 32)}, "says top_k 3, and layer 0 chooses 4"),
        ({"layers": {0: Forced((0, 1, 2, 3, 4), ())}}, "5 experts are activated, and a token chooses 4"),
    ],
)
def test_what_belongs_to_another_model_is_refused(model: Any, change: dict[str, Any], message: str) -> None:
    """At attach, in one line; the model is as it was and can be attached."""
    steering = steering_for(model, LAYERS)
    if "shape" in change:
        change = {"shape": type(steering.shape)(*change["shape"])}
    before = logits(model)
    with pytest.raises(InputError) as caught:
        hetsched.attach(model, steer=replace(steering, **change), **EMULATED)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(logits(model), before)
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    hetsched.attach(model, **EMULATED).detach()


def test_router_weights_are_known_in_every_dtype() -> None:
    """A checkpoint in bf16 is the same model when it is loaded in fp32; another seed's is not."""
    stored = tiny_moe().to(torch.bfloat16)
    digest = digest_of(stored)
    assert digest == digest_of(stored.to(torch.float32)) == digest_of(tiny_moe())
    assert digest != digest_of(tiny_moe(seed=1))


def test_a_model_that_attaches_itself_is_not_steered(model: Any) -> None:
    """Its first layer has routed before hetsched is asked."""
    model.set_experts_implementation("eager")
    steering = steering_for(model, LAYERS)
    with hetsched.defaults(steer=steering, **EMULATED):
        model.set_experts_implementation("hetsched")
        with pytest.raises(InputError, match=r"call hetsched\.attach"):
            logits(model)
    model.set_experts_implementation("eager")


def test_a_router_of_ones_own_that_does_not_obey_is_refused(model: Any) -> None:
    """Ids from a table: neither steered in silence nor attached."""

    def by_table(hidden: torch.Tensor) -> Any:
        scores = torch.nn.functional.linear(hidden, gate.weight)
        return scores, torch.ones(len(hidden), 4), torch.arange(4).expand(len(hidden), 4)

    gate = model.model.layers[0].mlp.gate
    gate.__dict__["forward"] = by_table
    with pytest.raises(InputError, match="chooses its experts by something else than its logits"):
        hetsched.attach(model, steer=steering_for(model, LAYERS), **EMULATED)
    assert gate.__dict__["forward"] is by_table


def test_plain_models_are_steered_and_given_back(model: Any) -> None:
    before = logits(model)
    with steered(model, steering_for(model, LAYERS)), asked_of(model) as seen:
        logits(model)
    assert broken(seen, LAYERS) == []
    assert torch.equal(logits(model), before)
    with pytest.raises(IndexError), steered(model, steering_for(model, LAYERS)):
        model(IDS + 1000)
    with steered(model, None):
        assert torch.equal(logits(model), before)


def test_a_wrapper_that_keeps_the_steered_forward_steers_no_longer(model: Any) -> None:
    """Another library's hook around a router outlives detach()."""
    before = logits(model)
    gate = model.model.layers[0].mlp.gate
    with hetsched.attach(model, steer=steering_for(model, LAYERS), **EMULATED):
        kept = gate.__dict__["forward"]
        gate.__dict__["forward"] = lambda hidden: kept(hidden)
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)


def test_a_compiled_graph_is_steered(model: Any) -> None:
    """One graph without breaks, with the same logits."""
    with hetsched.attach(model, steer=steering_for(model, LAYERS), **EMULATED):
        expected = logits(model)
        model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
        assert torch.equal(logits(model), expected)
        del model.forward


def test_a_steered_model_that_is_dropped_is_freed() -> None:
    model: Any = tiny_moe()
    gone = weakref.ref(model.model.layers[0].mlp.gate)
    handle = hetsched.attach(model, steer=steering_for(model, LAYERS), **EMULATED)
    logits(model)
    del model
    gc.collect()
    assert gone() is None
    handle.detach()


def test_steering_can_be_made_by_hand(model: Any, tmp_path: Path) -> None:
    """The least that a file needs, as somebody would write it."""
    path = tmp_path / "by-hand.yaml"
    path.write_text(
        "schema: hetsched-steer/1\n"
        "geometry: {layers: 3, experts: 8, top_k: 4, hidden: 32}\n"
        "layers:\n- {layer: 1, deactivate: [0, 1, 2, 3]}\n"
    )
    with hetsched.attach(model, steer=str(path), **EMULATED) as handle, asked_of(model) as seen:
        logits(model)
        assert isinstance(handle.steering, Steering)
    assert {int(i) for i in seen[1][0][0].unique()} == {4, 5, 6, 7}
