"""A device of your own, here three threads of this machine: python examples/write_an_accelerator.py"""

import threading
from typing import Any

import torch

import hetsched
from hetsched.accelerators.host_lane import HostLane, HostWork
from hetsched.accelerators.host_memory import HostMemory
from hetsched.accelerators.wall_time import WallTime
from hetsched.testing.accelerators import LAWS
from hetsched.testing.models import tiny_moe
from hetsched.types import Lane


class Threads(WallTime, HostMemory):
    """GPU, LINK and CPU are threads, each as slow as the profile says; memory is the host's."""

    name, emulated = "threads", False

    def __init__(self, capacity_bytes: int = 1 << 30) -> None:
        super().__init__(capacity_bytes)
        self._over, self._copies = threading.Event(), list[HostWork]()
        self._lanes = {lane: HostLane(lane.value) for lane in Lane}

    def launch(self, lane: Lane, kernel: Any, seconds: float, after: Any = ()) -> HostWork:
        return self._lanes[lane].launch(lambda: (kernel(), self._over.wait(seconds))[0], after)

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> HostWork:
        copy = self.launch(Lane.LINK, lambda: target.copy_(source), seconds)
        self._copies = [*(other for other in self._copies if not other.done), copy]
        return copy

    def promote(self, copy: Any) -> None:
        """First come, first served: nothing is more urgent."""

    def copy_state(self) -> tuple[float, list[tuple[HostWork, float]]]:
        return 0.0, [(copy, 0.0) for copy in self._copies if not copy.done]

    def cancel(self) -> None:
        for lane in self._lanes.values():
            lane.cancel()
            lane.drain()

    def close(self) -> None:
        self._over.set()
        for lane in self._lanes.values():
            lane.close()


if __name__ == "__main__":
    for law in LAWS:
        law(Threads)
        print("holds:", law.__name__.replace("_", " "))
    model, ids = tiny_moe(), torch.arange(12)[None]
    alone = model.generate(ids, max_new_tokens=24)
    with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="50%", accelerator=Threads()):
        print("same tokens:", torch.equal(alone, model.generate(ids, max_new_tokens=24)))
