"""Flags of llama.cpp: blocks as it counts them, expressions that match these and no others, and its memory."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.estimate.fit import fitting_split, n_cpu_moe
from hetsched.planning.llama_cpp import flags_of, numbers_expression, override
from hetsched.planning.memory import layers_on_cpu, memory_of
from hetsched.planning.outlook import expected_speeds
from tests.planning.asked import GIB, machine, question


@given(st.sets(st.integers(0, 130), min_size=1))
def test_an_expression_matches_its_numbers_and_no_others(numbers: set[int]) -> None:
    expression = re.compile(rf"blk\.({numbers_expression(numbers)})\.")
    assert {number for number in range(400) if expression.match(f"blk.{number}.")} == numbers


def test_overridden_tensors_are_the_routed_experts_of_these_blocks() -> None:
    expression = re.compile(override([1, 2, 12]).removesuffix("=CPU"))
    for name in ("blk.1.ffn_gate_exps.weight", "blk.12.ffn_down_exps.weight", "blk.2.ffn_gate_up_exps.weight"):
        assert expression.search(name)
    for name in ("blk.3.ffn_up_exps.weight", "blk.1.ffn_up_shexp.weight", "blk.1.attn_q.weight", "blk.21.ffn_up_exps"):
        assert not expression.search(name)


def test_blocks_without_experts_are_counted() -> None:
    """DeepSeek-V2-Lite's first layer is dense: --n-cpu-moe 3 moves the experts of two layers."""
    asked = question("deepseek-v2-lite", "llama.cpp", profile=machine(48), n_cpu_moe=3)
    assert layers_on_cpu(asked) == 2
    assert flags_of(asked).n_cpu_moe == 3
    assert layers_on_cpu(question("deepseek-v2-lite", "llama.cpp", profile=machine(48), n_cpu_moe=999)) == 26


@pytest.mark.parametrize("gib", [6, 8, 12, 16, 24, 48])
@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b"])
def test_as_few_layers_as_fit(model: str, gib: int) -> None:
    """The plan of llama.cpp is the estimate's own choice, and one layer fewer on the CPU would not fit."""
    asked = question(model, "llama.cpp", profile=machine(gib))
    memory = memory_of(asked)
    split = fitting_split(asked.subject, gib * GIB, asked.context)
    assert layers_on_cpu(asked) == split.layers_on_cpu
    flag = flags_of(asked).n_cpu_moe
    assert n_cpu_moe(asked.subject, flag) == split
    assert memory.fits
    if flag:
        assert n_cpu_moe(asked.subject, flag - 1).layers_on_cpu == split.layers_on_cpu - 1
        assert not memory_of(question(model, "llama.cpp", profile=machine(gib), n_cpu_moe=flag - 1)).fits


def test_flags_are_what_llama_cpp_has_room_for() -> None:
    """Whichever engine was asked about; with what it is expected to come to."""
    asked, own = question(), question(engine="llama.cpp")
    flags, split = flags_of(asked), fitting_split(own.subject, machine(8).gpu.capacity_bytes, own.context)
    assert flags == flags_of(own)
    assert n_cpu_moe(own.subject, flags.n_cpu_moe) == split
    assert flags.flags == f"-ngl 99 --n-cpu-moe {flags.n_cpu_moe} -c 4096 -fa on -ctk f16 -ctv f16"
    each = sum(own.subject.expert_bytes_L)  # one expert of every layer
    room = memory_of(own).expert_room_bytes
    assert flags.slots * each <= room < (flags.slots + 1) * each
    assert flags.fork_flags.endswith(f"--moe-cache-profile FILE --moe-cache-slots {flags.slots}")
    speeds = expected_speeds(own)
    assert speeds is not None
    assert flags.decode == speeds[0]


def test_several_sequences_are_said() -> None:
    assert " -c 16384 -np 4 " in flags_of(question(batch=4)).flags


def test_everything_on_the_gpu_needs_no_flag() -> None:
    asked = question(profile=machine(80), engine="llama.cpp")
    flags = flags_of(asked)
    assert (flags.n_cpu_moe, flags.override, flags.fork_flags) == (0, "", "")
    assert flags.flags.startswith("-ngl 99 -c ")


def test_bytes_of_the_gpus_layers_are_not_the_hosts() -> None:
    asked = question(engine="llama.cpp")
    memory = memory_of(asked)
    assert memory.gpu.experts + memory.host.experts == asked.subject.geometry.total_expert_bytes
    assert memory.host.dense == asked.subject.embedding_bytes
    assert memory.gpu.dense == asked.subject.dense_bytes + asked.subject.head_bytes
