"""Which conversions may be made expert by expert: those in which no operation mixes experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.core_model_loading import Chunk, Concatenate, Interleave, MergeModulelist, Transpose, WeightConverter

from hetsched.formats.int4_group import Int4Group
from hetsched.loading.conversion import converts_alone
from hetsched.loading.packed_experts import packed_source
from hetsched.loading.packed_tensors import PackedTensor
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


def matrices(names: list[str], *, stack: int = 0, group: int = 32) -> dict[str, PackedTensor]:
    laid = Int4Group(group)
    return {name: PackedTensor(laid, (32, 64), {}, Path("file"), 0, stack) for name in names}


ALONE = {"experts.w": ["experts.0.w", "experts.1.w"]}
PAIRS = {"experts.w": ["experts.0.w", "experts.1.w"], "experts.v": ["experts.0.v", "experts.1.v"]}
MERGE, ABOVE = MergeModulelist(dim=0), Concatenate(dim=1)


@pytest.mark.parametrize(
    ("names", "operations", "shape", "kept"),
    [
        (ALONE, [MERGE], (2, 32, 64), 1),
        (PAIRS, [MERGE, ABOVE], (2, 64, 64), 2),
        (PAIRS, [MERGE, ABOVE], (2, 32, 64), 0),
        (PAIRS, [MERGE, Concatenate(dim=2)], (2, 32, 128), 0),
        (PAIRS, [MERGE, ABOVE, Transpose(1, 2)], (2, 64, 64), 0),
        (ALONE, [MergeModulelist(dim=1)], (32, 2, 64), 0),
        ({"experts.w": ["experts.w"]}, None, (2, 32, 64), 1),
        ({"experts.w": ["experts.w"]}, [Transpose(1, 2)], (2, 64, 32), 0),
    ],
)
def test_rows_of_bytes_are_stacked_and_put_above_one_another(
    names: dict[str, list[str]], operations: Any, shape: tuple[int, ...], kept: int
) -> None:
    """Everything else is unpacked."""
    every = [name for found in names.values() for name in found]
    packed = matrices(every, stack=2 if len(every) == 1 else 0)
    converter = operations and WeightConverter(list(names), TARGET, operations)
    found = packed_source(Sources(TARGET, converter, names), packed, shape)
    assert (len(found.matrices) if found else 0) == kept


def test_experts_of_two_formats_are_no_rows() -> None:
    sources = Sources(TARGET, WeightConverter(list(ALONE), TARGET, [MERGE]), ALONE)
    packed = matrices(["experts.0.w"]) | matrices(["experts.1.w"], group=64)
    assert packed_source(sources, packed, (2, 32, 64)) is None
    assert packed_source(sources, matrices(["experts.0.w"]), (2, 32, 64)) is None


def test_every_parameter_of_a_conversion_is_named() -> None:
    found = sources(Chunk(dim=1), targets=["experts.gate_up_proj", "experts.other"])
    found.target = "model.layers.3.experts.gate_up_proj"
    assert found.targets == ["model.layers.3.experts.gate_up_proj", "model.layers.3.experts.other"]
