"""The number of slots changes between steps: memory really goes and comes, the least useful leave, tokens stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.stopping_criteria import StoppingCriteria

import hetsched
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.errors import InputError
from hetsched.integrations.attachment import Attachment
from hetsched.machine.gallery import machine
from hetsched.types import ExpertId

HARDWARE = machine("rtx-4060-laptop-8gb")
PROMPT = torch.arange(3, 15)[None]
TOKENS = 24
# One of each kind: with a solver, caches with and without shares, their own queues, in Python, and static ones.
POLICIES = (
    "hetsched",
    "on-demand-lru",
    "on-demand-lru-per-layer",
    "s3-fifo",
    "lfru",
    "moe-spac",
    "static-frequency",
    "layer-split",
)


class Meanwhile(StoppingCriteria):
    """Stops nothing; calls between two forward passes, after `at` new tokens."""

    def __init__(self, at: int, call: Callable[[], object]) -> None:
        self.at, self.call = at, call

    def __call__(self, ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        if ids.shape[1] - PROMPT.shape[1] == self.at:
            self.call()
        return torch.zeros(len(ids), dtype=torch.bool)


def generated(model: Any, *meanwhile: Meanwhile, tokens: int = TOKENS, prompt: torch.Tensor = PROMPT) -> list[int]:
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        stopping_criteria=list(meanwhile),
        **options,
    )
    return [int(token) for token in found[0]]


def attached(model: Any, **options: Any) -> Attachment:
    usual = {"hardware": HARDWARE, "stand_in_for": "gpt-oss-20b", "time_scale": 1.0, "gpu_memory": "50%"}
    return hetsched.attach(model, **{**usual, **options})


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_stay_as_they_are(model: Any, policy: str) -> None:
    """Between two generations, in the middle of one, to fewer and to more, to nothing and back."""
    expected = generated(model)
    with attached(model, policy=policy) as handle:
        residency = handle.scheduler.residency

        def to(share: str) -> Callable[[], None]:
            return lambda: handle.resize(share)

        assert generated(model, Meanwhile(4, to("20%")), Meanwhile(12, to("90%"))) == expected
        assert residency.num_slots == 21
        handle.engine.check()
        handle.resize("30%")
        assert generated(model) == expected
        handle.make_room(1 << 40)
        assert (residency.num_slots, residency.residents(), handle.engine.gpu_expert_bytes) == (0, [], 0)
        assert generated(model, Meanwhile(8, to("70%"))) == expected
        handle.engine.check()
        assert handle.stats()["faults"] == {"device memory short": 1}
        assert handle.stats()["resizes"] == 4


@pytest.fixture
def device() -> Iterator[EmulatedAccelerator]:
    """Its allocations can be looked at."""
    made = EmulatedAccelerator(HARDWARE, time_scale=1.0)
    yield made
    made.close()


def held(device: EmulatedAccelerator) -> int:
    return sum(device._allocated.values())


def test_device_memory_goes_and_comes(model: Any, device: EmulatedAccelerator) -> None:
    with attached(model, accelerator=device, time_scale=None) as handle:
        slot = handle.geometry.expert_bytes
        for share, slots in (("20%", 4), ("100%", 24), ("60%", 14), ("5%", 1)):
            handle.resize(share)
            assert held(device) == handle.engine.gpu_expert_bytes == slots * slot
        handle.resize("50%")
        given = handle.make_room(3 * slot)
        assert given >= 3 * slot
        assert held(device) == 12 * slot - given
        assert handle.make_room(0) == 0


def test_the_least_useful_leave_first(model: Any) -> None:
    """hetsched's own: by its utility; one that says nothing: by demand."""
    for policy, worth_of in (("hetsched", lambda s: s.policy.resized(12)), ("hybrimoe", lambda s: s.tokens_LE)):
        with attached(model, policy=policy) as handle:
            generated(model)
            before, worth_LE = handle.scheduler.residency.residents(), np.array(worth_of(handle.scheduler))
            handle.resize("25%")
            after = handle.scheduler.residency.residents()
            left = set(before) - set(after)
            assert set(after) < set(before)
            assert len(left) == len(before) - 6
            assert max(worth_LE[expert] for expert in left) <= min(worth_LE[expert] for expert in after)


def test_a_static_placement_is_made_anew(model: Any) -> None:
    frequency_LE = np.random.default_rng(0).random((3, 8))
    order = [ExpertId(*divmod(int(f), 8)) for f in np.argsort(-frequency_LE.reshape(-1))]
    with attached(model, policy="static-frequency", frequency_LE=frequency_LE) as handle:
        for share, slots in (("25%", 6), ("75%", 18), ("50%", 12)):
            handle.resize(share)
            assert set(handle.scheduler.residency.residents()) == set(order[:slots])
    with attached(model, policy="layer-split") as handle:
        handle.resize("80%")  # 19 slots: two whole layers of 8
        assert {expert.layer for expert in handle.scheduler.residency.residents()} == {1, 2}
        handle.resize("60%")
        assert {expert.layer for expert in handle.scheduler.residency.residents()} == {2}


def test_weights_moved_to_other_slots_are_whole(model: Any) -> None:
    with attached(model, policy="static-frequency") as handle:
        handle.resize("20%")
        engine: Any = handle.engine
        for expert in handle.scheduler.residency.residents():
            row = engine.store.row(expert)
            assert torch.equal(engine._slots.buffer(expert, len(row)), row)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gpu_memory": "1KiB"}, "holds no expert"),
        ({"gpu_memory": "900GiB"}, "is more than"),
        ({"gpu_memory": "lots"}, "is not an amount of memory"),
        ({"context": 0}, "context is 0"),
        ({"context": 10**9}, "give a smaller context"),
    ],
)
def test_what_cannot_be_changes_nothing(model: Any, given: dict[str, Any], says: str) -> None:
    expected = generated(model)
    with attached(model) as handle:
        before = handle.stats()["memory"]
        with pytest.raises(InputError, match=says) as caught:
            handle.resize(**given)
        assert "\n" not in str(caught.value)
        assert handle.stats()["memory"] == before
        assert handle.scheduler.residency.num_slots == 12
        assert generated(model) == expected


def test_a_device_without_room_refuses_named_memory_and_stays(model: Any) -> None:
    small = EmulatedAccelerator(HARDWARE, capacity_bytes=150_000, time_scale=1.0)
    expected = generated(model)
    with attached(model, accelerator=small, time_scale=None) as handle:
        with pytest.raises(InputError, match="no room for 24 experts") as caught:
            handle.resize("100%")
        assert "\n" not in str(caught.value)
        assert held(small) == handle.engine.gpu_expert_bytes
        assert handle.scheduler.residency.num_slots == 12
        handle.engine.check()
        handle.resize()  # what a plan leaves, as far as the device has it
        assert 12 < handle.scheduler.residency.num_slots < 24
        assert generated(model) == expected


def test_without_a_gpu_there_is_nothing_to_resize(model: Any) -> None:
    with hetsched.attach(model, hardware="cpu", cpu_kernel="eager", context=64) as handle:
        with pytest.raises(InputError, match="no GPU"):
            handle.resize()
        assert handle.make_room(1) == 0
        memory = handle.stats()["memory"]
        assert (memory["slots"], memory["gpu_bytes"], memory["context"]) == (0, 0, 64)
        assert memory["host"]["kv_cache"] > 0
    with pytest.raises(InputError, match="follow_cache gives the cache room that experts have on a GPU"):
        hetsched.attach(model, hardware="cpu", follow_cache=True)


def test_the_watch_gives_the_cache_room_and_takes_it_back(model: Any) -> None:
    """Experts give way in the middle of a generation whose cache outgrows its room; the next request has them back."""
    expected = generated(model, tokens=100)
    with attached(model, gpu_memory="100%", context=40) as handle:
        lines = handle.plan.gpu
    assert HARDWARE.gpu is not None
    needed_bytes = lines.total - lines.reserve  # then the machine is full with a cache of 40 tokens
    tight = replace(HARDWARE, gpu=replace(HARDWARE.gpu, capacity_bytes=int(needed_bytes / 0.95) + 2))
    seen: list[int] = []
    with attached(model, hardware=tight, gpu_memory=None, context=40, follow_cache=True) as handle:
        residency = handle.scheduler.residency
        assert residency.num_slots == 24
        look = [Meanwhile(at, lambda: seen.append(residency.num_slots)) for at in range(1, 100)]
        assert generated(model, *look, tokens=100) == expected
        assert seen[0] == 24 > seen[-1]
        assert seen == sorted(seen, reverse=True)
        assert 1 <= handle.stats()["resizes"] <= 6  # room for a quarter more each time
        slot, per_token = handle.geometry.expert_bytes, handle.plan.gpu.kv_cache // 40
        assert (24 - residency.num_slots) * slot >= per_token * (PROMPT.shape[1] + 99 - 40)
        assert generated(model) == expected[: PROMPT.shape[1] + TOKENS]
        assert residency.num_slots == 24
        handle.engine.check()


def test_the_watch_is_off_unless_asked_for(model: Any) -> None:
    with attached(model, gpu_memory="50%", context=4) as handle:
        generated(model)
        assert handle.stats()["resizes"] == 0
