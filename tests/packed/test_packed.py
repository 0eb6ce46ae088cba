"""Packed experts compute what their numbers unpacked compute, bit for bit, wherever they run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.formats import format_of
from hetsched.integrations.expert_modules import expert_modules
from hetsched.packed import PackedStack, StoredAs, packed_layout
from hetsched.packed.layout import PackedWeights
from hetsched.types import ExpertId
from tests.packed.models import FORMATS, gpt_oss, logits, pack, qwen3_moe, unpacked

EMULATED: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "40%", "time_scale": 1.0}
ON_CPU: dict[str, Any] = {"hardware": "cpu", "cpu_kernel": "eager"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("make", [qwen3_moe, gpt_oss])
def test_every_format_is_exact_attached_and_alone(make: Any, name: str) -> None:
    model = pack(make(), name, name)
    expected = logits(unpacked(make, model))
    assert torch.isfinite(expected).all()
    assert torch.equal(logits(model), expected)  # transformers' own forward
    with hetsched.attach(model, **EMULATED) as handle:
        assert torch.equal(logits(model), expected)
        handle.scheduler.residency.check()
        rows = sum(expert_modules(model)[0].gate_up_proj.rows.nbytes for _ in range(2))
        assert handle.stats()["expert_bytes_total"] == rows
        assert handle.geometry.dtype == name
    with hetsched.attach(model, **ON_CPU):
        assert torch.equal(logits(model), expected)
    assert isinstance(expert_modules(model)[0].gate_up_proj, PackedStack)
    assert torch.equal(logits(model), expected)


def test_matrices_of_other_formats_and_joins_are_exact() -> None:
    for make, joined in ((qwen3_moe, "rows"), (gpt_oss, "turns")):
        model = pack(make(), "q4_k", "q6_k", matrices=2, joined=joined)
        expected = logits(unpacked(make, model))
        with hetsched.attach(model, **EMULATED) as handle:
            assert torch.equal(logits(model), expected)
            assert handle.geometry.dtype == "q4_k"


def test_inference_mode_changes_nothing() -> None:
    """A model attached and run within it, and alone; what autograd takes for views are made for it."""
    model = pack(qwen3_moe(), "q8_0", "q8_0")
    expected, stack = logits(model), expert_modules(model)[0].gate_up_proj
    with torch.inference_mode():
        assert torch.equal(logits(model), expected)
        assert torch.equal(stack.detach()[1], stack.data[:2][1])
        with hetsched.attach(model, **EMULATED):
            assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), expected)


def test_tokens_are_those_of_the_numbers_unpacked() -> None:
    model = pack(qwen3_moe(), "q4_0", "q4_0")
    ids, options = torch.arange(3, 9)[None], {"max_new_tokens": 12, "do_sample": False}
    expected = unpacked(qwen3_moe, model).generate(ids, **options)
    with hetsched.attach(model, **EMULATED) as handle:
        assert model.generate(ids, **options).tolist() == expected.tolist()
        assert handle.stats()["lossless"]


def test_a_fetch_copies_the_packed_row() -> None:
    model = pack(qwen3_moe(), "q8_0", "q8_0")
    with hetsched.attach(model, **EMULATED) as handle:
        logits(model)
        layer, number = (int(each[0]) for each in (handle.scheduler.residency.slot_LE >= 0).nonzero())
        expert = ExpertId(layer, number)
        layout = handle.engine.store.layout(expert.layer)
        weights = handle.engine._slots.weights(expert, layout)
        assert isinstance(weights, PackedWeights)
        assert torch.equal(weights.row[: layout.row_bytes], handle.engine.store.row(expert))


def test_packed_parameters_are_copied_and_refuse_to_be_written() -> None:
    model = pack(qwen3_moe(), "q8_0", "q8_0")
    expected, stack = logits(model), expert_modules(model)[0].gate_up_proj
    twin = copy.deepcopy(model)
    assert expert_modules(twin)[0].gate_up_proj.rows.data_ptr() != stack.rows.data_ptr()
    assert torch.equal(logits(twin), expected)
    assert torch.equal(stack.sum((1, 2)), torch.stack([stack[e] for e in range(4)]).sum((1, 2)))
    assert "q8_0" in repr(stack)
    model.to(torch.bfloat16)
    with pytest.raises(InputError, match="cannot be moved or converted"):
        twin.to(torch.float32)
    with pytest.raises(InputError, match="cannot be written to"):
        stack.zero_()
    assert torch.equal(logits(model), expected)


def test_a_parameter_of_odd_shape_is_refused() -> None:
    q8 = format_of("q8_0")
    with pytest.raises(InputError, match="not made of 2 equal matrices"):
        packed_layout([StoredAs("up_proj", (3, 64), torch.bfloat16, (q8, q8))])
    with pytest.raises(InputError, match="multiple of 32"):
        packed_layout([StoredAs("up_proj", (4, 40), torch.bfloat16, (q8,))])
