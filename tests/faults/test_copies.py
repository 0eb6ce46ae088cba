"""Copies that fail or never end, one by one: what is told, what is free again, and that the link goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.base import LaneError
from hetsched.accelerators.streams.device import StreamAccelerator
from hetsched.bench.fault_ground import Ground
from hetsched.engine import recovery
from hetsched.engine.copy_watch import CopyWatch
from hetsched.engine.recovery import Patience
from hetsched.errors import InputError
from hetsched.faults import Fault
from hetsched.policies.misses import misses_on_cpu
from hetsched.policy import Decision, Setting, View
from hetsched.residency import Residency, ResidencyError
from hetsched.testing import faults
from hetsched.testing.faults import Dice, faulty
from hetsched.types import Demand, ExpertId, Fetch
from tests.accelerators.clocked_queues import ClockedQueues
from tests.conftest import tiny_moe


class OneAhead:
    """A policy that prefetches one expert of the next layer at a time, and runs whatever is there."""

    name = "one ahead"

    def start(self, machine: Setting) -> Sequence[ExpertId]:
        self._machine = machine
        return ()

    def plan(self, demand: Demand, view: View) -> Decision:
        return misses_on_cpu(demand, view, self._machine)

    def observe(self, demand: Demand) -> None:
        pass

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        absent = [e for e in range(8) if view.residency.state_LE[0, e] == 0]
        if view.link.in_flight or not view.residency.free_slots or not absent:
            return ()
        return [Fetch(ExpertId(0, absent[0]), None, True, "next")]


def test_a_prefetch_that_nobody_waits_for_does_not_hold_the_link_for_ever(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy at the head of the link for too many layers is given up, with its slot; the next ones arrive."""
    monkeypatch.setattr(recovery, "STUCK_LAYERS", 5)
    dice = Dice({faults.COPY_HANGS: 1.0}, limit=1)
    with ground.attached(dice, OneAhead()) as handle:  # type: ignore[arg-type]
        handle.engine.be_patient(Patience(0.0, 0.0))
        assert ground.lost(0, ground.generate(0)) == 0
        stats = handle.stats()
        assert stats["faults"] == {Fault.OVERDUE.value: 1, Fault.COPY.value: 1}
        assert len(handle.scheduler.residency.residents()) > 1
        handle.engine.check()


class FailingQueues(ClockedQueues):
    """Now and then the driver takes no chunk."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(1e8)
        self._dice = dice

    def copy(self, stream: Any, source: torch.Tensor, target: torch.Tensor) -> None:
        if self._dice.throw((CHUNK_FAILS,)):
            raise RuntimeError(CHUNK_FAILS)
        super().copy(stream, source, target)


CHUNK_FAILS = "a chunk fails"


@pytest.mark.parametrize("kind", [CHUNK_FAILS, faults.COPY_REFUSED, faults.COPY_HANGS, faults.GPU_RAISES])
def test_a_device_with_streams_recovers_too(kind: str) -> None:
    """The same on the accelerator that CUDA shares, over chunked and asynchronous copies."""
    model = tiny_moe()
    ids = torch.randint(3, 120, (1, 12), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    dice = Dice({kind: 0.05}, seed=1, limit=6)
    device = faulty(StreamAccelerator(FailingQueues(dice), 1 << 24, 1 << 10), dice)
    machine = {"hardware": "rtx-4060-laptop-8gb", "stand_in_for": "gpt-oss-20b"}
    with hetsched.attach(model, **machine, gpu_memory="30%", accelerator=device, policy="on-demand-lru") as handle:
        handle.engine.be_patient(Patience(1.0, 0.05))
        assert torch.equal(model.generate(ids, **options), expected)
        handle.engine.check()
        assert sum(handle.stats()["faults"].values()) > 0
        assert dice.count > 0


def test_the_watch_cancels_what_is_overdue_and_nothing_else() -> None:
    done, never = SimpleNamespace(done=True), SimpleNamespace(done=False)
    cancelled = threading.Event()
    watch = CopyWatch(cancelled.set)
    watch.look_s = 0.001
    watch.arm([done], 0.0)
    for _ in range(50):  # until the thread has looked many times, whatever else this machine does
        time.sleep(0.001)
    assert not watch.disarm()
    assert not cancelled.is_set()
    watch.arm([done, never], 0.0)
    assert cancelled.wait(60)
    assert watch.disarm()
    assert not watch.disarm()
    watch.close()
    watch.close()


class Device:
    """An accelerator with no room, and no pinned memory left."""

    name = "small"
    device = torch.device("cpu")

    def bring(self, tensor: torch.Tensor) -> Any:
        raise RuntimeError("cudaHostAlloc: out of memory")

    send = bring

    def allocate(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def lose(self, expert: ExpertId, reason: str) -> None:
        raise AssertionError("no copy was lost")

    def fault(self, fault: Fault, reason: str) -> None:
        assert "cudaHostAlloc" in reason
        self.faults.append(fault)


def test_without_pinned_memory_tensors_cross_all_the_same() -> None:
    told, x = Told(), torch.arange(4)
    device: Any = Device()
    assert torch.equal(recovery.copy_to_host(device, x, told).result(), x)
    assert torch.equal(recovery.copy_to_device(device, x, told), x)
    assert told.faults == [Fault.PINNING, Fault.PINNING]


def test_refused_work_says_why() -> None:
    with pytest.raises(LaneError, match="no stream") as caught:
        recovery.RefusedWork(ValueError("no stream")).result()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda made: made._slot_LE.__setitem__((0, 1), -1), "held by one expert or free"),
        (lambda made: made._slot_LE.__setitem__((1, 0), 3), "held by one expert or free"),
        (lambda made: made._slot_LE.__setitem__((0, 1), made._slot_LE[1, 2]), "held by one expert or free"),
        (lambda made: made._board.free_S.__setitem__(0, 0), "held by one expert or free"),
        (lambda made: made._state_LE.__setitem__((1, 0), 2), "slots used"),
        (lambda made: made._state_LE.__setitem__((0, 1), 1), "said to be under way"),
        (lambda made: made._state_LE.__setitem__((1, 1), 9), "no known state"),
    ],
)
def test_disagreement_of_slots_and_states_is_found(break_it: Any, message: str) -> None:
    residency = Residency(2, 3, 4)
    residency.fill([ExpertId(0, 1), ExpertId(1, 2)])
    residency.check()
    break_it(residency)
    with pytest.raises(ResidencyError, match=message):
        residency.check()


def test_a_detached_engine_says_so(ground: Ground) -> None:
    with ground.attached(Dice({})) as handle:
        engine = handle.engine
        ground.generate(0, 1)
    with pytest.raises(InputError, match="detached") as caught:
        engine.begin_step(None)
    assert "\n" not in str(caught.value)
