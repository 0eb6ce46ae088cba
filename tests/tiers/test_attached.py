"""A model attached with lossy copies: lossy where it says so, exact everywhere else, and restored bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hetsched
from hetsched.engine.host_store import HostStore
from hetsched.engine.quantised_store import QuantisedStore, copied_layout
from hetsched.errors import InputError, UnknownNameError
from hetsched.tiers import PRECISIONS
from hetsched.types import ExpertId
from tests.conftest import tiny_moe
from tests.packed import models as packed_models

FAST: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "time_scale": 1.0}
LOSSY = ["fp8-block", "int4", "int8", "mxfp4"]  # the others have blocks of 256 weights, the tiny model rows of 32
PROMPT = torch.arange(3, 15)[None]


def logits(model: Any) -> torch.Tensor:
    """Logits of one forward pass, and of two decode steps behind it."""
    with torch.inference_mode():
        out = model(PROMPT, use_cache=True)
        parts = [out.logits]
        for token in (17, 23):
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            parts.append(out.logits)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("precision", LOSSY)
def test_everything_says_lossy_and_detach_restores_every_bit(precision: str) -> None:
    model = tiny_moe()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = logits(model)
    options = {**FAST, "gpu_memory": "40%", "policy": "static-frequency", "gpu_precision": precision}
    with hetsched.attach(model, **options) as handle:
        found, stats = logits(model), handle.stats()
        handle.scheduler.residency.check()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(found, expected)
    assert stats["lossless"] is False
    assert stats["gpu_precision"] == precision
    assert 0 < stats["lossy_share"] <= 1
    assert isinstance(handle.engine.store, QuantisedStore)
    assert handle.engine.store.copied_runs + handle.engine.store.exact_runs == stats["active"]
    assert stats["gpu_expert_bytes"] <= 0.4 * stats["expert_bytes_total"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("precision", LOSSY)
def test_the_gpu_computes_with_the_copies_and_the_cpu_with_the_weights(precision: str) -> None:
    """Logits are, bit for bit, those of a plain model some of whose experts are dequantised: those on the GPU."""
    model, plain = tiny_moe(), tiny_moe()
    options = {**FAST, "gpu_memory": "10%", "policy": "static-frequency", "gpu_precision": precision}
    with hetsched.attach(model, **options) as handle:
        found = logits(model)
        residents = set(handle.scheduler.residency.residents())
    assert 0 < len(residents) < 24
    for layer, block in enumerate(plain.model.layers):
        experts = block.mlp.experts
        layout = copied_layout(experts, PRECISIONS[precision])
        for e in range(8):
            if ExpertId(layer, e) in residents:
                parameters = {name: getattr(experts, name).data[e] for name in ("gate_up_proj", "down_proj")}
                row = torch.zeros(layout.row_bytes, dtype=torch.uint8)
                layout.fill(row, parameters)
                for name, weights in layout.views(row).items():
                    parameters[name].copy_(weights)
    assert torch.equal(found, logits(plain))


def test_slots_grow_and_copies_shrink_by_the_bytes(model: Any) -> None:
    """At equal bytes. Rows of fp32: two matrices, 6,144 and 3,072 bytes. The second's rows of 24 weights are no blocks;
    of the first 32 bits become 8.5 and 4.5, rounded up to 64 bytes."""
    slots, copies = {}, {}
    for precision in (None, "int8", "int4"):
        with hetsched.attach(model, **FAST, gpu_memory="30%", gpu_precision=precision) as handle:
            slots[precision] = handle.scheduler.residency.num_slots
            copies[precision] = handle.scheduler.cost.copy_s()
            assert handle.stats()["slot_bytes"] == {None: 9216, "int8": 4736, "int4": 3968}[precision]
    assert slots == {None: 7, "int8": 14, "int4": 16}  # of 30 % of 24 experts' bytes
    assert copies[None] > copies["int8"] > copies["int4"]


def test_by_default_nothing_is_lossy_and_nothing_of_it_is_there(model: Any) -> None:
    expected = logits(model)
    with hetsched.attach(model, **FAST, gpu_memory="30%") as handle:
        assert torch.equal(logits(model), expected)
        assert handle.stats()["lossless"] is True
        assert handle.stats()["gpu_precision"] == "exact"
        assert type(handle.engine.store) is HostStore
        assert handle.scheduler.geometry is handle.geometry
        assert handle.scheduler.cost.profile is handle.hardware


def test_auto_is_chosen_at_attach_and_says_why() -> None:
    """With room for everything it keeps the weights exact, and every bit with them."""
    model = tiny_moe()
    expected = logits(model)
    hot_LE = np.ones((3, 8))
    with hetsched.attach(
        model, **FAST, gpu_memory="100%", gpu_precision="auto", frequency_LE=hot_LE, stand_in_for="qwen3-30b-a3b"
    ) as handle:
        assert torch.equal(logits(model), expected)
        stats = handle.stats()
    assert stats["lossless"] is True
    assert "exact" in stats["gpu_precision_reason"]
    assert "int4" in stats["gpu_precision_reason"]


@pytest.mark.parametrize("policy", ["hetsched", "on-demand-lru"])
def test_copies_fetched_while_running_are_the_copies(model: Any, policy: str) -> None:
    """Whatever was moved, each slot holds its expert's copy, byte for byte."""
    with hetsched.attach(model, **FAST, gpu_memory="5%", policy=policy, gpu_precision="int8") as handle:
        logits(model)
        store, slots = handle.engine.store, handle.engine._slots
        copying = set(handle.scheduler.residency.copying())
        residents = [expert for expert in handle.scheduler.residency.residents() if expert not in copying]
        assert residents
        for expert in residents:
            row = store.row(expert)
            assert torch.equal(slots.buffer(expert, len(row)), row)
        assert handle.scheduler.stats.bytes_moved % 4736 == 0


def test_wrong_input_names_the_fix(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="int4"):
        hetsched.attach(model, **FAST, gpu_precision="int3")
    with pytest.raises(InputError, match="has no GPU; drop one"):
        hetsched.attach(model, gpu_precision="int8")
    with pytest.raises(InputError, match=r"q4_k copies .* take 9216 bytes, the experts 9216; drop gpu_precision"):
        hetsched.attach(model, **FAST, gpu_precision="q4_k")
    monkeypatch.setattr("hetsched.integrations.gpu_precision.room_bytes", lambda: 24 * 3968 - 1)
    with pytest.raises(InputError, match=r"93.0 KiB of host memory .* and 93.0 KiB are free"):
        hetsched.attach(model, **FAST, gpu_precision="int4")
    with hetsched.attach(model, **FAST):  # what failed left nothing behind
        pass


def test_copies_of_packed_experts_must_be_smaller() -> None:
    """Of experts in Q8_0 int4 copies are, int8 copies are not: those take as much."""
    model = packed_models.pack(packed_models.qwen3_moe(), "q8_0", "q8_0")
    expected = packed_models.logits(model)
    options = {**FAST, "gpu_memory": "100%", "policy": "static-frequency"}
    with pytest.raises(InputError, match=r"int8 copies .* \(q8_0\) take 208896 bytes, the experts 208896"):
        hetsched.attach(model, **options, gpu_precision="int8")
    with hetsched.attach(model, **options, gpu_precision="int4") as handle:
        assert not torch.equal(packed_models.logits(model), expected)
        assert handle.stats()["slot_bytes"] == 110592
    assert torch.equal(packed_models.logits(model), expected)


def test_a_model_that_attaches_itself_takes_it_too() -> None:
    model = tiny_moe()
    expected = logits(model)
    model.set_experts_implementation("eager")
    options = {**FAST, "gpu_memory": "50%", "policy": "static-frequency", "gpu_precision": "int4"}
    with hetsched.integrations.transformers.defaults(**options):
        model.set_experts_implementation("hetsched")
        found = logits(model)
        handle = hetsched.attachment_of(model)
        assert handle is not None
        assert handle.stats()["gpu_precision"] == "int4"
        handle.detach()
    assert not torch.equal(found, expected)
