"""Which conversions may be made expert by expert: those in which no operation mixes experts."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.core_model_loading import Chunk, Concatenate, Interleave, MergeModulelist, Transpose, WeightConverter

from hetsched.loading.conversion import converts_alone
from hetsched.loading.sources import Sources

TARGET = "experts.gate_up_proj"


def sources(*operations: Any, tensors: int = 1, targets: Any = TARGET) -> Sources:
    converter = WeightConverter(["experts.w"], targets, list(operations))
    return Sources(TARGET, converter, {"experts.w": [f"experts.{number}.w" for number in range(tensors)]})


@pytest.mark.parametrize(
    ("found", "alone"),
    [
        (Sources(TARGET, None, {TARGET: [TARGET]}), True),
        (sources(MergeModulelist(dim=0), Concatenate(dim=1), tensors=8), True),
        (sources(Transpose(1, 2)), True),
        (sources(Interleave(dim=1)), True),
        (sources(MergeModulelist(dim=1), tensors=8), False),
        (sources(MergeModulelist(dim=0), Concatenate(dim=0), tensors=8), False),
        (sources(Transpose(0, 1)), False),
        (sources(Interleave(dim=0)), False),
        (sources(Concatenate(dim=1), tensors=2), False),
        (sources(Chunk(dim=1), targets=[TARGET, "experts.other"]), False),
        (sources(Chunk(dim=1)), False),
    ],
)
def test_only_what_keeps_experts_apart(found: Sources, alone: bool) -> None:
    assert converts_alone(found) == alone


def test_every_parameter_of_a_conversion_is_named() -> None:
    found = sources(Chunk(dim=1), targets=["experts.gate_up_proj", "experts.other"])
    found.target = "model.layers.3.experts.gate_up_proj"
    assert found.targets == ["model.layers.3.experts.gate_up_proj", "model.layers.3.experts.other"]
