"""Runs the stream accelerator on the device of threads and prints what came of it as JSON.

In a process of its own: torch takes one such device a process, and keeps it.
"""

from __future__ import annotations

import json
import threading
import types
from typing import Any

import torch

import hetsched
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.accelerators.streams.queues import Queues
from hetsched.bench import device_check
from hetsched.types import Lane
from tests.conftest import tiny_moe
from tests.queue_device.building import device_library
from tests.queue_device.host_nodes import tokens_of_host_nodes

CHUNK, COPY = 4096, 1 << 20
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


class UncachedQueues(Queues):
    """The device as it is, but its allocator caches nothing that could be given back."""

    def give_back(self) -> None:
        """Nothing."""


def device_of_threads() -> tuple[torch.device, Any]:
    """The device, and its library."""
    library = device_library()
    torch.utils.rename_privateuse1_backend("queues")
    module: Any = types.ModuleType("torch.queues")
    module.is_available, module.device_count, module.current_device = lambda: True, lambda: 1, lambda: 0
    module._is_in_bad_fork, module.manual_seed_all = lambda: False, lambda seed: None
    torch._register_device_module("queues", module)
    return torch.device("queues", 0), library


def one_layer(device: StreamAccelerator, source: torch.Tensor) -> dict[str, Any]:
    """A long background copy, an urgent one behind it, work that needs the long one, work that needs nothing."""
    target = device.allocate(COPY + CHUNK)
    target.zero_()
    device.decided(0.0)
    slow = device.copy_in(source, target[:COPY], seconds=0.01, urgent=False)
    while not slow.marks:
        threading.Event().wait(1e-3)
    fast = device.copy_in(source[:CHUNK], target[COPY:], seconds=1e-4, urgent=True)
    needs = device.launch(Lane.GPU, lambda: int(target[:COPY].sum()), 0.0, [slow])
    host = device.launch(Lane.CPU, lambda: 1, 0.0)
    device.end_layer([slow, fast, needs, host])
    device.release(target)
    return {
        "fast_before_slow": fast.last.elapsed_time(slow.last) > 0,
        "sum": needs.result(),
        "stalled": needs.stall_s > 0,
        "left": len(device.copy_state()[1]),
    }


def tokens(device: torch.device, make: Any) -> dict[str, Any]:
    """A tiny model with its dense part on the device and its experts in host memory, against eager on the host."""
    model = tiny_moe()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1))
    expected = model.generate(ids, **OPTIONS)
    machine = {"hardware": "rtx-4060-laptop-8gb", "stand_in_for": "gpt-oss-20b"}
    with hetsched.attach(model, **machine, gpu_memory="30%", accelerator=make(1 << 24)) as attached:
        found = model.generate(ids.to(device), **OPTIONS)
        stats = attached.stats()
    known = ("hits", "demanded_fetches", "prefetches", "gpu_s", "cpu_s")
    return {"identical": torch.equal(found.cpu(), expected), **{key: stats[key] for key in known}}


def resized(device: torch.device, make: Any) -> dict[str, Any]:
    """The same through resizes, a dense part that finds no memory once, and slots that go: tokens, and bytes held."""
    model = tiny_moe()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1))
    expected = model.generate(ids, **OPTIONS)
    accelerator, held, same, calls = make(1 << 24), [], [], [0]

    def short_once(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise torch.OutOfMemoryError("no memory for the attention")

    machine = {"hardware": "rtx-4060-laptop-8gb", "stand_in_for": "gpt-oss-20b"}
    hook = model.model.layers[1].self_attn.register_forward_hook(short_once)
    with hetsched.attach(model, **machine, gpu_memory="50%", accelerator=accelerator) as attached:
        for share in ("50%", "20%", "90%", "40%"):
            attached.resize(share)
            same.append(torch.equal(model.generate(ids.to(device), **OPTIONS).cpu(), expected))
            held.append(sum(accelerator._memory._held.values()) == attached.engine.gpu_expert_bytes)
        faults = attached.stats()["faults"]
    hook.remove()
    return {"identical": same, "held": held, "faults": faults}


def main() -> None:
    """Everything, as one JSON document."""
    where, library = device_of_threads()
    library.set_rate(1e8)

    def make(capacity_bytes: int) -> StreamAccelerator:
        return StreamAccelerator(UncachedQueues(where), capacity_bytes, CHUNK)

    report: dict[str, Any] = {"laws": device_check.laws(make)}
    accelerator = make(COPY + CHUNK)
    source = torch.ones(COPY, dtype=torch.uint8)
    report["pageable"] = one_layer(accelerator, source)
    report["pinned"] = one_layer(accelerator, source.pin_memory())
    accelerator.close()
    report["tokens"] = tokens(where, make)
    report["host_nodes"] = {name: tokens_of_host_nodes(where, library, name) for name in ("hetsched", "on-demand-lru")}
    report["resized"] = resized(where, make)
    report["threads"] = [thread.name for thread in threading.enumerate() if thread.name.startswith("hetsched-")]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
