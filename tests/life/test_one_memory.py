"""A machine whose GPU and host have one memory: attach counts it once, at first, after a resize and beside a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.attachment import Attachment
from hetsched.machine.gallery import machine
from hetsched.machine.profile import HardwareProfile
from hetsched.machine.sizes import show_bytes
from hetsched.memory.plan import RESERVE_SHARE, MemoryPlan

JETSON = machine("jetson-orin-nx-16gb")
APART = replace(JETSON, unified_memory=False)
CONTEXT = 40


def attached(model: Any, hardware: HardwareProfile, **options: Any) -> Attachment:
    usual = {"stand_in_for": "qwen3-30b-a3b", "time_scale": 1.0, "context": CONTEXT}
    return hetsched.attach(model, hardware=hardware, **{**usual, **options})


def sized(hardware: HardwareProfile, capacity_bytes: int) -> HardwareProfile:
    assert hardware.gpu is not None
    gpu, cpu = (replace(side, capacity_bytes=capacity_bytes) for side in (hardware.gpu, hardware.cpu))
    return replace(hardware, gpu=gpu, cpu=cpu)


def room_for(model: Any, slots: float, **options: Any) -> int:
    """Bytes of one memory in which so many experts have slots, beside all the rest."""
    with attached(model, JETSON, **options) as handle:
        plan = handle.plan
    rest = plan.gpu.total - plan.gpu.experts - plan.gpu.reserve + plan.host.total
    return int((rest + slots * plan.expert_bytes) / (1 - RESERVE_SHARE)) + 2


def in_all(plan: MemoryPlan) -> int:
    return plan.gpu.total + plan.host.total


@pytest.mark.parametrize("precision", [None, "int8"])
def test_what_the_host_holds_is_no_room_for_slots(model: Any, precision: str | None) -> None:
    """The host's copies for lossy slots count too; two memories of that size have room for everything."""
    capacity_bytes = room_for(model, 5.5, gpu_precision=precision)
    with attached(model, sized(JETSON, capacity_bytes), gpu_precision=precision) as handle:
        plan = handle.plan
        assert plan.slots == handle.scheduler.residency.num_slots == 5
        assert in_all(plan) <= capacity_bytes
        assert handle.stats()["memory"]["shared"] is True
        assert plan.gpu_left_bytes == plan.host_left_bytes == capacity_bytes - in_all(plan)
        assert f"{show_bytes(plan.host.total)} in the same memory" in str(plan)
    with attached(model, sized(APART, capacity_bytes), gpu_precision=precision) as handle:
        assert handle.plan.slots == 24
        assert handle.stats()["memory"]["shared"] is False


def test_a_resize_counts_it_once_too(model: Any) -> None:
    capacity_bytes = room_for(model, 9.5)
    with attached(model, sized(JETSON, capacity_bytes)) as handle:
        handle.resize("25%")
        assert handle.scheduler.residency.num_slots == 6
        handle.resize()
        assert handle.scheduler.residency.num_slots == 9
        assert in_all(handle.plan) <= capacity_bytes
        handle.resize(context=CONTEXT + 4)
        assert handle.scheduler.residency.num_slots < 9
        assert in_all(handle.plan) <= capacity_bytes


def test_a_growing_cache_takes_from_the_one_memory(model: Any) -> None:
    """What no line takes is room for the cache; what the host's lines take is none."""
    capacity_bytes = room_for(model, 12.5)
    with attached(model, sized(JETSON, capacity_bytes), follow_cache=True) as handle:
        plan, residency = handle.plan, handle.scheduler.residency
        prompt, tokens = torch.arange(3, 15)[None], 100
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
        cache_bytes = plan.gpu.kv_cache // CONTEXT * (prompt.shape[1] + tokens - 1)
        slots_bytes = residency.num_slots * plan.expert_bytes
        assert residency.num_slots < plan.slots
        assert in_all(plan) - plan.gpu.experts - plan.gpu.kv_cache + slots_bytes + cache_bytes <= capacity_bytes


def test_without_room_the_error_names_the_hosts_part(model: Any) -> None:
    with pytest.raises(InputError, match=r"no room for an expert .*what the host holds in the same memory") as caught:
        attached(model, sized(JETSON, room_for(model, 0.5)))
    assert "\n" not in str(caught.value)
