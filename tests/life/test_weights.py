"""Weights that change while a model is attached: what is computed is eager's with the new ones, or an InputError."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.errors import InputError
from hetsched.integrations import dense_part
from hetsched.integrations.dense_part import DensePart
from tests.accelerators.clocked_queues import ClockedQueues
from tests.architectures.test_shapes import diffusion_gemma
from tests.conftest import tiny_moe
from tests.generation.generating import ALONE, EMULATED, HERE, generated, same

Edit = Callable[[Any], object]


def load(model: Any) -> None:
    model.load_state_dict(tiny_moe(seed=9).state_dict())


def in_place(model: Any) -> None:
    with torch.no_grad():
        for layer in (0, 2):
            model.model.layers[layer].mlp.experts.gate_up_proj[1:7].mul_(-1.5)


def one_by_one(model: Any) -> None:
    """Through views that share the parameter's counter."""
    random = torch.Generator().manual_seed(3)
    for layer in model.model.layers:
        for expert in layer.mlp.experts.down_proj.detach():
            expert.copy_(torch.randn(expert.shape, generator=random))


EDITS: dict[str, Edit] = {"load_state_dict": load, "in place": in_place, "one by one": one_by_one}
WAYS: dict[str, dict[str, Any]] = {
    "emulated": EMULATED,
    "all resident": EMULATED | {"gpu_memory": "100%"},
    "on demand": EMULATED | {"policy": "on-demand-lru"},
    "cpu": HERE,
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("way", WAYS)
def test_output_is_eagers_with_the_new_weights(way: str, edit: str) -> None:
    """After a generation that has filled every slot; also for the inner model, called by itself."""
    model = tiny_moe()
    twin = copy.deepcopy(model)
    EDITS[edit](twin)
    with hetsched.attach(model, **WAYS[way]) as handle:
        old = generated(model)
        EDITS[edit](model)
        with torch.no_grad():
            assert torch.equal(model.model(ALONE)[0], twin.model(ALONE)[0])
        assert same(generated(model), generated(twin))
        handle.engine.check()
    assert not same(generated(model), old)
    assert same(generated(model), generated(twin))


def test_on_streams_and_with_copies_under_way() -> None:
    """Copies of the old weights that have not arrived are given up."""
    model, device = tiny_moe(), StreamAccelerator(ClockedQueues(1e6), 1 << 20, 1 << 10)
    twin = copy.deepcopy(model)
    load(twin)
    with hetsched.attach(model, **{**EMULATED, "time_scale": None}, accelerator=device) as handle:
        generated(model)
        load(model)
        assert same(generated(model), generated(twin))
        handle.engine.check()


def test_lossy_copies_are_made_anew() -> None:
    """What is computed from them is what a model attached with the new weights computes."""
    options = EMULATED | {"gpu_precision": "int8", "gpu_memory": "100%"}
    model, twin = tiny_moe(), tiny_moe()
    load(twin)
    with hetsched.attach(model, **options), hetsched.attach(twin, **options):
        generated(model)
        load(model)
        assert same(generated(model), generated(twin))


def test_only_what_was_written_to_is_copied_again(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with hetsched.attach(model, **EMULATED) as handle:
        told: list[list[int]] = []
        reload = handle.engine.reload
        monkeypatch.setattr(handle.engine, "reload", lambda layers: (told.append(layers), reload(layers)))
        generated(model)
        assert told == []
        in_place(model)
        generated(model)
        assert told == [[0, 2]]


def test_writes_without_a_trace_need_reload(model: Any) -> None:
    """Through .data torch counts nothing; reload() is the remedy."""
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each.model.layers[1].mlp.experts.gate_up_proj.data.neg_()
    with hetsched.attach(model, **EMULATED | {"gpu_memory": "100%"}) as handle:
        for each in (model, twin):
            each.model.layers[1].mlp.experts.down_proj.data.mul_(2)
        handle.reload()
        assert same(generated(model), generated(twin))


def test_tied_stacks_see_the_same_write() -> None:
    model = diffusion_gemma()
    with hetsched.attach(model, **EMULATED) as handle:
        modules = [module for _, module in handle._living()]
        assert len(modules) > handle.geometry.num_layers
        with torch.no_grad():
            modules[-1].down_proj.mul_(2)
        versions = handle._weights.look()
        assert handle._weights.changed(versions) == [handle.geometry.num_layers - 1]


def _assigned(model: Any) -> None:
    model.load_state_dict(tiny_moe(seed=9).state_dict(), assign=True)


def _data(model: Any) -> None:
    experts = model.model.layers[1].mlp.experts
    experts.gate_up_proj.data = experts.gate_up_proj.data.neg()


REPLACING: dict[str, Edit] = {
    "assign": _assigned,
    "data": _data,
    "half": lambda model: model.half(),
    "dtype": lambda model: model.to(torch.bfloat16),
    "shared": lambda model: model.share_memory(),
}


@pytest.mark.parametrize("way", ["emulated", "cpu"])
@pytest.mark.parametrize("edit", REPLACING)
def test_other_memory_is_refused_until_attached_again(way: str, edit: str) -> None:
    """One line; detach() keeps what the user has put there, and attach() takes it over."""
    model = tiny_moe()
    twin = copy.deepcopy(model)
    handle = hetsched.attach(model, **WAYS[way])
    generated(model)
    for each in (model, twin):
        REPLACING[edit](each)
    with pytest.raises(InputError, match=r"was replaced while attached .* call detach\(\)") as caught:
        generated(model)
    assert "\n" not in str(caught.value)
    handle.detach()
    assert same(generated(model), generated(twin))
    with hetsched.attach(model, **WAYS[way]):
        assert same(generated(model), generated(twin))


def test_moves_that_move_nothing_are_harmless(model: Any) -> None:
    expected = generated(model)
    with hetsched.attach(model, **EMULATED):
        for same_model in (model.to(torch.float32), model.float(), model.cpu(), model.eval(), model.requires_grad_()):
            assert same(generated(same_model), expected)


@pytest.mark.parametrize("way", ["emulated", "cpu"])
def test_copies_and_pickles_are_refused(way: str, tmp_path: Path) -> None:
    """One line each, whole or a layer of it, and the model goes on as before; after detach() all of it works."""
    model = tiny_moe()
    expected = generated(model)
    doing: dict[str, Edit] = {
        "deepcopy": copy.deepcopy,
        "of a layer": lambda model: copy.deepcopy(model.model.layers[0]),
        "pickle": pickle.dumps,
        "save": lambda model: torch.save(model, tmp_path / "whole.pt"),
        "handle": lambda model: copy.deepcopy(hetsched.attachment_of(model)),
    }
    with hetsched.attach(model, **WAYS[way]):
        for do in doing.values():
            with pytest.raises(InputError, match=r"cannot be copied or pickled.*call detach\(\)") as caught:
                do(model)
            assert "\n" not in str(caught.value)
        assert same(generated(model), expected)
    for do in doing.values():
        do(model)
    assert same(generated(torch.load(tmp_path / "whole.pt", weights_only=False)), expected)


def test_the_dense_parts_new_weights_come_back_from_the_device(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded, assigned or converted there is the model's when it is restored; what was not is untouched."""
    monkeypatch.setattr(dense_part, "_on", lambda tensor, _: torch.nn.Parameter(tensor.detach().clone()))
    part, new = DensePart(), tiny_moe(seed=9).state_dict()
    before = dict(model.named_parameters())
    untouched = before["model.layers.0.input_layernorm.weight"].data_ptr()
    part.move(model, torch.device("meta"))
    assert model.lm_head.weight is not before["lm_head.weight"]
    model.lm_head.load_state_dict({"weight": new["lm_head.weight"]})
    model.model.norm.half()
    model.model.embed_tokens.load_state_dict({"weight": new["model.embed_tokens.weight"]}, assign=True)
    part.restore()
    part.restore()
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert torch.equal(model.lm_head.weight, new["lm_head.weight"])
    assert torch.equal(model.model.embed_tokens.weight, new["model.embed_tokens.weight"])
    assert model.model.norm.weight.dtype == torch.float16
    assert model.model.layers[0].input_layernorm.weight.data_ptr() == untouched
