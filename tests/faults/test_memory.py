"""The device is short of memory: at attach, in the dense part, in the engine itself, in a kernel. The run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.base import OutOfDeviceMemory
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.bench.fault_cases import dense, fewer_slots, summing
from hetsched.bench.fault_ground import HARDWARE, FaultRow, Ground
from hetsched.errors import InputError
from hetsched.machine.gallery import machine
from hetsched.testing.faults import GPU_MEMORY, Dice
from hetsched.types import Demand

SHORT = "device memory short"


@pytest.mark.parametrize("case", [fewer_slots, dense, summing])
def test_what_the_benchmark_promises(ground: Ground, case: Callable[[Ground], FaultRow]) -> None:
    row = case(ground)
    assert row.injected == row.survived > 0
    assert row.tokens_lost == 0
    assert "THREADS" not in row.outcome


def test_named_memory_stays_an_error(ground: Ground) -> None:
    small = EmulatedAccelerator(machine(HARDWARE), capacity_bytes=50_000, time_scale=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with (
            pytest.raises(InputError, match="give a smaller gpu_memory"),
            ground.attached(Dice({}), inner=small, gpu_memory="100%"),
        ):
            pass
    assert not small._allocated


def test_a_kernel_without_memory_costs_slots_at_the_next_pass(ground: Ground) -> None:
    with ground.attached(Dice({GPU_MEMORY: 1.0}, limit=1)) as handle:
        before = handle.engine.gpu_expert_bytes
        assert ground.lost(0, ground.generate(0)) == 0
        assert handle.stats()["faults"] == {"gpu kernel failed": 1, SHORT: 1}
        assert "found no memory on the device" in handle.stats()["last_fault"][SHORT]
        assert handle.engine.gpu_expert_bytes < before
        handle.engine.check()


@contextmanager
def failing(module: Any, when: Callable[[], bool]) -> Iterator[None]:
    """A module that runs out of memory, after it has done its work, whenever `when` says so."""

    def fail(*_: object) -> None:
        if when():
            raise torch.OutOfMemoryError("the device has no memory")

    hook = module.register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def test_the_last_slots_gone_the_error_is_the_callers(ground: Ground) -> None:
    with ground.attached(Dice({})) as handle:
        with failing(ground.model.model.layers[1].self_attn, lambda: True), pytest.raises(torch.OutOfMemoryError):
            ground.generate(0)
        assert handle.scheduler.residency.num_slots == 0
        assert ground.lost(0, ground.generate(0)) == 0
        handle.engine.check()


def test_an_engine_without_slots_left_raises_what_it_met(ground: Ground) -> None:
    with ground.attached(Dice({})) as handle:
        executor: Any = handle.engine._executor  # type: ignore[union-attr]

        def fail(*_: float) -> None:
            raise OutOfDeviceMemory("no memory for the sum")

        executor.finish = fail
        with pytest.raises(OutOfDeviceMemory):
            ground.generate(0)
        del executor.finish
        assert ground.lost(0, ground.generate(0)) == 0


def test_a_layer_made_again_is_of_the_same_step(ground: Ground) -> None:
    """Whoever counts steps sees none of it."""
    with ground.attached(Dice({})) as handle:
        executor: Any = handle.engine._executor  # type: ignore[union-attr]
        finish, failed, steps, step = executor.finish, [], [], handle.scheduler.step

        def fail_once(*given: float) -> Any:
            if len(steps) in (5, 7) and len(steps) not in failed:  # a layer in the middle, and a first one
                failed.append(len(steps))
                raise OutOfDeviceMemory("no memory")
            return finish(*given)

        def told(demand: Demand, *rest: Any) -> Any:
            steps.append((demand.step, demand.layer, demand.new_request))
            return step(demand, *rest)

        executor.finish = fail_once
        handle.scheduler.step = told  # type: ignore[method-assign]
        ground.generate(0, 4)
    assert len(failed) == 2
    assert len(steps) == 4 * 3 + 2
    assert list(dict.fromkeys(steps)) == [(s, layer, s == 0) for s in range(4) for layer in range(3)]


@pytest.mark.parametrize("kind", ["static", "window"])
def test_a_cache_that_cannot_be_put_back_is_not_guessed(kind: str) -> None:
    """A static cache has overwritten its place, a full window has dropped its oldest tokens: the error is raised."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(
        vocab_size=96,
        num_key_value_heads=2,
        num_local_experts=4,
        sliding_window=6 if kind == "window" else None,
        **sizes,
    )
    model = MixtralForCausalLM(config).eval()
    more: dict[str, Any] = {"cache_implementation": "static"} if kind == "static" else {}
    prompt, calls = torch.arange(3, 13)[None], [0]

    def fifth() -> bool:
        calls[0] += 1
        return calls[0] == 5

    def generate() -> list[int]:
        found = model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None, **more)
        return [int(token) for token in found[0]]

    expected = generate()
    with hetsched.attach(model, hardware=machine(HARDWARE), gpu_memory="50%", time_scale=1.0) as handle:
        with failing(model.model.layers[1].self_attn, fifth), pytest.raises(torch.OutOfMemoryError):
            generate()
        assert SHORT not in handle.stats()["faults"]
        assert generate() == expected


def test_the_models_own_forward_is_back_after_detach(ground: Ground) -> None:
    assert "forward" not in ground.model.__dict__
    with ground.attached(Dice({})):
        assert "forward" in ground.model.__dict__
    assert "forward" not in ground.model.__dict__


def test_a_forward_of_somebody_elses_stays(ground: Ground) -> None:
    model: Any = ground.model
    own = type(model).forward.__get__(model)
    model.forward = own
    try:
        with ground.attached(Dice({})):
            assert model.__dict__["forward"] is own
            assert ground.lost(0, ground.generate(0)) == 0
        assert model.__dict__["forward"] is own
    finally:
        del model.__dict__["forward"]
