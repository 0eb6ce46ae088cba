"""Accelerators: the laws, and what is particular to emulation."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch

from hetsched.accelerators.base import Accelerator, Cancelled, OutOfDeviceMemory
from hetsched.accelerators.cpu import CpuAccelerator
from hetsched.accelerators.emulated.clock import EmulatedClock
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.accelerators.emulated.lane import LaneEvent
from hetsched.machine.gallery import machine
from hetsched.testing.accelerators import LAWS, Make
from hetsched.types import Lane

CHUNK_S = machine("rtx-4060-laptop-8gb").h2d.chunk_bytes / machine("rtx-4060-laptop-8gb").h2d.bytes_per_s


def emulated(capacity_bytes: int = 1 << 20, time_scale: float = 1.0) -> EmulatedAccelerator:
    return EmulatedAccelerator(machine("rtx-4060-laptop-8gb"), capacity_bytes, time_scale)


@pytest.fixture
def device() -> Iterator[EmulatedAccelerator]:
    made = emulated()
    made.begin_layer(0.0)
    yield made
    made.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("time_scale", [1.0, 20.0])
def test_emulated_keeps_the_laws(law: Callable[[Make], None], time_scale: float) -> None:
    law(lambda capacity_bytes: emulated(capacity_bytes, time_scale))


def test_both_are_accelerators(device: EmulatedAccelerator) -> None:
    assert isinstance(device, Accelerator)
    assert isinstance(CpuAccelerator(), Accelerator)
    assert device.emulated
    assert not CpuAccelerator().emulated


def test_emulated_time_is_exact(device: EmulatedAccelerator) -> None:
    """Closed form: two fetches of 4 ms and 1 ms of compute each end at 4 + 4 + 1; the CPU lane hides behind them."""
    target = device.allocate(2)
    device.decided(0.5e-3)
    copies = [
        device.copy_in(torch.zeros(1, dtype=torch.uint8), target[i : i + 1], seconds=4e-3, urgent=True) for i in (0, 1)
    ]
    works = [device.launch(Lane.GPU, lambda: None, 1e-3, [copy]) for copy in copies]
    works.append(device.launch(Lane.CPU, lambda: None, 7e-3))
    assert device.end_layer(works) == pytest.approx(9e-3)
    assert [work.busy_s for work in works] == pytest.approx([1e-3, 1e-3, 7e-3])
    assert works[0].stall_s == pytest.approx(4e-3)


def test_what_the_host_does_between_layers_is_no_emulated_time(device: EmulatedAccelerator) -> None:
    """A prefetch of 10 ms makes exactly the progress that emulated layers give it."""
    target = device.allocate(1)
    device.decided(0.0)
    copy = device.copy_in(torch.ones(1, dtype=torch.uint8), target, seconds=10e-3, urgent=False)
    device.end_layer([device.launch(Lane.GPU, lambda: None, 2e-3)])
    sum(i * i for i in range(200_000))  # the host is busy
    _, ((event, left_s),) = device.copy_state()
    assert event is copy
    assert left_s == pytest.approx(8e-3)
    device.begin_layer(8e-3)
    assert device.copy_state() == (0.0, [])
    assert copy.done


def test_an_urgent_copy_waits_for_one_chunk_only(device: EmulatedAccelerator) -> None:
    """A prefetch of several chunks lets a demanded copy in between two of them."""
    target = device.allocate(100)
    device.decided(0.0)
    slow = device.copy_in(torch.ones(90, dtype=torch.uint8), target[:90], seconds=8 * CHUNK_S, urgent=False)
    urgent_s, _ = device.copy_state()
    fast = device.copy_in(torch.ones(10, dtype=torch.uint8), target[90:], seconds=CHUNK_S / 2, urgent=True)
    makespan_s = device.end_layer([fast])
    assert makespan_s <= 1.6 * CHUNK_S
    assert urgent_s <= 1.1 * CHUNK_S
    assert not slow.done
    device.begin_layer(9 * CHUNK_S)
    slow.result()
    assert slow.end_s <= makespan_s + 9 * CHUNK_S
    assert target.min() == 1


def test_promoting_a_prefetch_lets_it_go_first(device: EmulatedAccelerator) -> None:
    target = device.allocate(3)
    one = torch.ones(1, dtype=torch.uint8)
    device.decided(0.0)
    first, second, third = (device.copy_in(one, target[i : i + 1], seconds=CHUNK_S, urgent=False) for i in range(3))
    device.promote(third)
    device.end_layer([third])
    assert third.end_s < second.end_s or not second.done
    device.end_layer([first, second])


def test_what_the_host_does_beside_the_lanes_delays_only_what_follows(device: EmulatedAccelerator) -> None:
    """A copy submitted 2 ms after the plan begins then and the layer ends no earlier; earlier work is not moved."""
    target = device.allocate(1)
    device.decided(0.0)
    work = device.launch(Lane.GPU, lambda: None, 1e-3)
    device.overlapped(2e-3)
    copy = device.copy_in(torch.ones(1, dtype=torch.uint8), target, seconds=4e-3, urgent=False)
    assert device.end_layer([work]) == pytest.approx(2e-3)
    ((event, left_s),) = device.copy_state()[1]
    assert event is copy
    assert left_s == pytest.approx(4e-3)
    device.begin_layer(0.0)
    device.decided(0.0)
    assert device.end_layer([device.launch(Lane.GPU, lambda: None, 1e-3)]) == pytest.approx(1e-3)


def test_cancel_drops_what_waits(device: EmulatedAccelerator) -> None:
    target = device.allocate(1)
    device.decided(0.0)
    device.copy_in(torch.ones(1, dtype=torch.uint8), target, seconds=1e-3, urgent=True)
    waiting = device.copy_in(torch.ones(1, dtype=torch.uint8), target, seconds=1e-3, urgent=False)
    device.cancel()
    with pytest.raises(Cancelled):
        waiting.result()
    assert device.copy_state()[1] == []


def test_cpu_has_no_memory_to_copy_to() -> None:
    device = CpuAccelerator()
    assert device.allocate(0).numel() == 0
    with pytest.raises(OutOfDeviceMemory):
        device.allocate(1)
    device.overlapped(1.0)
    assert device.launch(Lane.CPU, lambda: 3, 0.0).result() == 3


def test_the_clock_is_exact_however_late_the_host_wakes() -> None:
    clock = EmulatedClock(scale=3.0)
    for moment_s in (0.0, 1e-3, 1e-3 + 1e-9):
        clock.advance(moment_s)
        assert clock.now_s == moment_s
    assert clock.due_s == pytest.approx(3.0 * (1e-3 + 1e-9))


def test_another_thread_may_cancel_what_would_never_end(device: EmulatedAccelerator) -> None:
    """A copy without end: end_layer returns with Cancelled, work done before stays done, and the lanes go on."""
    target = device.allocate(1)
    device.decided(0.0)
    fine = device.launch(Lane.CPU, lambda: 3, 1e-3)
    copy = device.copy_in(torch.ones(1, dtype=torch.uint8), target, seconds=math.inf, urgent=True)
    never = device.launch(Lane.GPU, lambda: 1, 1e-3, [copy])

    def give_up() -> None:
        while not fine.ended:
            time.sleep(1e-3)
        time.sleep(0.02)
        device.cancel()

    watch = threading.Thread(target=give_up)
    watch.start()
    with pytest.raises(Cancelled):
        device.end_layer([fine, never])
    watch.join()
    assert fine.result() == 3
    assert never.failed
    assert copy.failed
    assert device.copy_state() == (0.0, [])
    device.decided(0.0)
    assert device.end_layer([device.launch(Lane.GPU, lambda: 1, 2e-3)]) == pytest.approx(2e-3)


@pytest.mark.parametrize("late", ["caller", "work"])
def test_who_wakes_late_moves_nothing(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies interrupted, promoted and waited for end at the same moments when waits or work take long or short."""
    undisturbed = _moments()
    random = Random(5)
    if late == "caller":
        _delay(monkeypatch, EmulatedClock, "advance", random)
    else:
        _delay(monkeypatch, LaneEvent, "do_part", random)
    assert [_moments() for _ in range(3)] == [undisturbed] * 3


def _delay(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, random: Random) -> None:
    inner = getattr(owner, name)

    def late(*args: Any) -> None:
        time.sleep(random.choice((0.0, 2 * CHUNK_S, 5 * CHUNK_S)))
        inner(*args)
        time.sleep(random.choice((0.0, 2 * CHUNK_S, 5 * CHUNK_S)))

    monkeypatch.setattr(owner, name, late)


def _moments() -> list[float]:
    """Ends on the emulated clock of six layers, with a prefetch of five chunks and a demanded copy of two in each."""
    device, target = emulated(), torch.zeros(64, dtype=torch.uint8)
    source = torch.ones(64, dtype=torch.uint8)
    moments: list[float] = []
    prefetches: list[LaneEvent] = []
    for layer in range(6):
        device.begin_layer(0.7 * CHUNK_S)
        free_s, unfinished = device.copy_state()
        moments += [free_s, *(left_s for _, left_s in unfinished)]
        device.decided(0.13 * CHUNK_S)
        copy = device.copy_in(source, target, seconds=2 * CHUNK_S, urgent=True)
        if layer == 3:
            device.promote(prefetches[-1])
        work = device.launch(Lane.GPU, lambda: None, 0.3 * CHUNK_S, [copy, *prefetches[2:3]])
        device.overlapped(0.2 * CHUNK_S)
        prefetches.append(device.copy_in(source, target, seconds=5 * CHUNK_S, urgent=False))
        moments += [device.end_layer([work]), copy.end_s, work.end_s, work.stall_s]
    device.end_layer(prefetches)
    device.close()
    return [*moments, *(copy.end_s for copy in prefetches)]
