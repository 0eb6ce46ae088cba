"""The memory plan: sums, and what more of one thing does to the others."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.memory.context import ContextShape, LayerCache
from hetsched.memory.plan import MemoryPlan, context_or_usual, plan_memory, prefill_bytes

MODEL = MoEGeometry("model", 4, 16, 2, 64, 96, dense_params=50_000, other_params=200_000)
SHAPE = ContextShape((LayerCache("full", 128),) * 3 + (LayerCache("sliding", 128, 100),), 64, 1000, 8192)
GIB, MIB = 1 << 30, 1 << 20


def plan(**given: Any) -> MemoryPlan:
    """Of that model, on a small machine unless something else is given."""
    return plan_memory(MODEL, SHAPE, **{"gpu_bytes": 16 * MIB, "host_bytes": GIB, **given})


@given(st.integers(1, 20_000), st.integers(1, 8), st.integers(0, 64 * MIB), st.none() | st.integers(0, 4 * MIB))
def test_lines_add_up(context: int, batch: int, gpu_bytes: int, budget: int | None) -> None:
    made = plan(context=context, batch=batch, gpu_bytes=gpu_bytes, expert_budget_bytes=budget)
    assert sum(asdict(made.gpu).values()) == made.gpu.total == made.gpu_bytes - made.gpu_left_bytes
    assert made.host.total == made.host_bytes - made.host_left_bytes
    assert made.gpu.experts == made.slots * made.expert_bytes
    assert 0 <= made.slots <= made.experts
    assert made.expert_share == made.slots / 64
    if budget is None and gpu_bytes:
        # No slot that would fit is left out, and none is there that does not.
        assert made.slots == made.experts or made.gpu_left_bytes < made.expert_bytes
        assert made.slots == 0 or made.gpu_left_bytes >= 0
        assert made.missing_bytes == 0 or made.slots < made.experts
    json.dumps(made.as_dict())


@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(1, 4))
def test_longer_contexts_leave_fewer_experts(one: int, other: int, batch: int) -> None:
    short, long = (plan(context=context, batch=batch) for context in sorted((one, other)))
    assert short.gpu.kv_cache <= long.gpu.kv_cache
    assert short.gpu.prefill <= long.gpu.prefill
    assert short.slots >= long.slots
    assert plan(context=one, batch=batch + 1).slots <= plan(context=one, batch=batch).slots


@given(st.integers(0, 8 * MIB), st.integers(0, 8 * MIB))
def test_a_draft_and_more_dense_weights_take_their_bytes(draft: int, dense: int) -> None:
    made = plan(draft_bytes=draft, dense_bytes=dense, expert_budget_bytes=0)
    plain = plan(dense_bytes=0, expert_budget_bytes=0)
    assert plain.gpu_left_bytes - made.gpu_left_bytes == draft + dense


def test_missing_bytes_bring_every_expert() -> None:
    made = plan(gpu_bytes=2 * MIB, context=200)
    assert 0 < made.slots < made.experts
    # Of what is added, the reserve's share is not the experts'.
    richer = plan(gpu_bytes=2 * MIB + int(made.missing_bytes / 0.95) + 2, context=200)
    assert (richer.slots, richer.missing_bytes) == (richer.experts, 0)
    assert plan(gpu_bytes=2 * MIB + made.missing_bytes - 1, context=200).slots < made.experts
    nothing = plan(gpu_bytes=MIB)
    assert nothing.missing_bytes == 64 * nothing.expert_bytes - nothing.gpu_left_bytes > 64 * nothing.expert_bytes


def test_by_hand() -> None:
    made = plan(context=200)
    assert made.gpu.dense == 2 * (4 * 50_000 + 200_000)
    assert made.gpu.kv_cache == 2 * 128 * (3 * 200 + 100)
    per_token = (4 + 2) * 64 + 2 * 64 + 3 * 96
    assert made.gpu.prefill == 200 * per_token * 2 + 1000 * 6
    assert made.gpu.reserve == int(0.05 * 16 * MIB)
    assert made.host.experts == 64 * 3 * 64 * 96 * 2
    assert made.pinned_bytes == made.host.staging
    in_fp32 = replace(MODEL, dtype="fp32")
    assert plan_memory(in_fp32, SHAPE, gpu_bytes=GIB, host_bytes=GIB, context=200).gpu.kv_cache == 2 * made.gpu.kv_cache
    assert prefill_bytes(in_fp32, SHAPE, 200) == 200 * per_token * 4 + 1000 * 8


def test_without_a_gpu_everything_is_the_hosts() -> None:
    here, there = plan(gpu_bytes=0), plan(gpu_bytes=GIB)
    assert here.gpu.total == here.slots == here.pinned_bytes == 0
    assert here.host.kv_cache == there.gpu.kv_cache > 0
    assert here.host.dense == there.gpu.dense
    assert here.fits
    assert not plan(gpu_bytes=0, host_bytes=MIB).fits


def test_one_memory_holds_both_sides() -> None:
    """What the host has is no room for slots, and both are exceeded together."""
    apart = plan(gpu_bytes=GIB, host_bytes=GIB, context=1000)
    lines = apart.host.total + apart.gpu.total - apart.gpu.experts - apart.gpu.reserve
    small = int((lines + 5.5 * apart.expert_bytes) / 0.95)  # the rest is the driver's
    shared = plan(gpu_bytes=small, host_bytes=small, context=1000, shared=True)
    assert (shared.slots, apart.slots) == (5, 64)
    assert shared.gpu.total + shared.host.total <= small
    assert shared.gpu_left_bytes == shared.host_left_bytes < shared.expert_bytes
    less = plan(gpu_bytes=small // 2, host_bytes=small // 2, context=1000, shared=True)
    assert plan(gpu_bytes=small // 2, host_bytes=GIB, context=1000).fits
    assert not less.fits


def test_the_usual_context() -> None:
    assert plan().context == 4096
    assert context_or_usual(None, ContextShape(longest=512)) == 512
    assert context_or_usual(None, ContextShape()) == 4096
    assert context_or_usual(9000, ContextShape(longest=512)) == 9000


@pytest.mark.parametrize("wrong", [{"context": 0}, {"context": -1}, {"batch": 0}, {"batch": 1.5}, {"context": 1 << 60}])
def test_sizes_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be a whole number from 1") as caught:
        plan(**wrong)
    assert "\n" not in str(caught.value)


def test_the_line_says_what_is_left_or_too_much() -> None:
    enough, line = plan(batch=2, context=100), str(plan(batch=2, context=100))
    assert f"planned for {enough.context} x 2 tokens: experts " in line
    assert line.endswith(" left")
    assert "draft" not in line
    over = str(plan(gpu_bytes=MIB, draft_bytes=MIB))
    assert "draft model 1.0 MiB" in over
    assert over.endswith(" TOO MUCH")
    assert str(plan(gpu_bytes=0)).startswith("host 1.0 GiB")
