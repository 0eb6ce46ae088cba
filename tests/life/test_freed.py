"""A dropped model takes its weights, its engine and its threads with it, also when it has run and nobody detached."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.integrations.expert_modules import expert_modules
from tests.accelerators.clocked_queues import ClockedQueues
from tests.architectures.test_models import asking
from tests.conftest import tiny_moe
from tests.generation.generating import ALONE, EMULATED, HERE, generated

WAYS: dict[str, dict[str, Any]] = {
    "emulated": EMULATED,
    "emulated, learning": EMULATED | {"policy": "on-demand-lru"},
    "emulated, lossy": EMULATED | {"gpu_precision": "int8"},
    "cpu": HERE,
    "cpu, measured kernels": HERE | {"cpu_kernel": "fused-bf16"},
}


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("hetsched-")]


def left_of(model: Any) -> list[weakref.ref[Any]]:
    """Weak references to the model, its expert modules, and the memory of every layer's experts."""
    modules = expert_modules(model)
    handle = hetsched.attachment_of(model)
    assert handle is not None
    rows = [handle.engine.store.rows(layer) for layer in range(len(modules))]
    return [weakref.ref(thing) for thing in (model, handle, handle.engine, *modules, *rows)]


def ended(threads: list[threading.Thread]) -> bool:
    """Whether they end; waiting is for the machine's sake only."""
    for thread in threads:
        thread.join(60)
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("itself", [False, True])
def test_a_model_that_has_generated_is_freed(way: str, itself: bool) -> None:
    model = tiny_moe()
    if "fused" in WAYS[way].get("cpu_kernel", ""):
        model = model.to(torch.bfloat16)
    if itself:
        with hetsched.defaults(**WAYS[way]):
            generated(asking(model), ALONE)
    else:
        handle = hetsched.attach(model, **WAYS[way])
        generated(model, ALONE)
        del handle
    threads, left = own_threads(), left_of(model)
    watching = {"hetsched-watch"} if way.startswith("emulated") else set()  # where a layer has waited for a copy
    assert {thread.name for thread in threads} <= watching
    del model
    gc.collect()
    assert [ref() for ref in left if ref() is not None] == []
    assert ended(threads)


def test_a_model_that_failed_is_freed() -> None:
    """The error of a lane holds on to frames of its thread, and nothing holds on to the error."""
    model = tiny_moe()
    hetsched.attach(model, **EMULATED)
    experts = model.model.layers[2].mlp.experts
    experts._apply_gate = lambda *_: 1 / 0
    with pytest.raises(RuntimeError, match="division by zero"):
        generated(model, ALONE)
    threads, left = own_threads(), left_of(model)
    del experts, model
    gc.collect()
    assert [ref() for ref in left if ref() is not None] == []
    assert ended(threads)


def test_streams_end_with_their_accelerator() -> None:
    """Copy engine and both lanes of a real device's accelerator, with pinned rows and copies under way."""
    model, queues = tiny_moe(), ClockedQueues()
    hetsched.attach(model, **{**EMULATED, "time_scale": None}, accelerator=StreamAccelerator(queues, 1 << 20, 1 << 10))
    generated(model, ALONE)
    threads, left = own_threads(), left_of(model)
    assert len(queues.pinned_at) == 3
    assert {thread.name for thread in threads} >= {"hetsched-copy", "hetsched-gpu"}
    del model
    gc.collect()
    assert ended(threads)
    assert [ref() for ref in left if ref() is not None] == []
    assert not queues.pinned_at
