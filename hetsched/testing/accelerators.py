"""Laws that every accelerator with a device keeps. Third parties run them on theirs: `for law in LAWS: law(make)`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch

from ..accelerators.base import Accelerator, Cancelled, LaneError, OutOfDeviceMemory
from ..types import Lane

Make = Callable[[int], Accelerator]  # capacity in bytes -> a fresh accelerator


def capacity_is_hard(make: Make) -> None:
    """An allocation beyond the capacity raises with the numbers; released memory can be had again."""
    device = make(1000)
    buffer = device.allocate(800)
    refused = _raised(lambda: device.allocate(201), OutOfDeviceMemory)
    assert "201" in str(refused)
    device.release(buffer)
    assert device.allocate(1000).numel() == 1000
    device.close()


def a_copy_brings_every_byte(make: Make) -> None:
    """What arrives is what was sent, urgent or not."""
    device = make(1 << 16)
    target = device.allocate(1 << 16)
    source = torch.arange(1 << 16, dtype=torch.int64).to(torch.uint8)
    device.begin_layer(0.0)
    device.decided(0.0)
    for urgent in (True, False):
        target.zero_()
        event = device.copy_in(source, target, seconds=1e-3, urgent=urgent)
        device.end_layer([event])
        assert event.done
        assert torch.equal(target.cpu(), source)
    device.close()


def work_waits_for_what_it_needs(make: Make) -> None:
    """GPU work that depends on a copy sees the copied bytes; results come back through the event."""
    device = make(8)
    target = device.allocate(8)
    target.zero_()
    device.begin_layer(0.0)
    device.decided(0.0)
    copy = device.copy_in(torch.full((8,), 7, dtype=torch.uint8), target, seconds=5e-3, urgent=True)
    work = device.launch(Lane.GPU, lambda: int(target.sum()), 1e-4, [copy])
    makespan_s = device.end_layer([work])
    assert work.result() == 56
    assert makespan_s > 0
    device.close()


def lanes_overlap(make: Make) -> None:
    """The layer's makespan is below the sum of its lanes' busy times."""
    device = make(1 << 20)
    target = device.allocate(1 << 20)
    device.begin_layer(0.0)
    device.decided(0.0)
    seconds = 0.02
    copy = device.copy_in(torch.zeros(1 << 20, dtype=torch.uint8), target, seconds=seconds, urgent=True)
    gpu = device.launch(Lane.GPU, lambda: 1, seconds)
    cpu = device.launch(Lane.CPU, lambda: 2, seconds)
    makespan_s = device.end_layer([copy, gpu, cpu])
    assert makespan_s < 0.9 * (copy.busy_s + gpu.busy_s + cpu.busy_s)
    device.close()


def a_lane_is_serial_and_in_order(make: Make) -> None:
    """Work of one lane never overlaps itself and runs in order of submission."""
    device = make(8)
    seen: list[int] = []
    device.begin_layer(0.0)
    device.decided(0.0)
    events = [device.launch(Lane.GPU, lambda i=i: seen.append(i), 1e-4) for i in range(20)]  # type: ignore[misc]
    makespan_s = device.end_layer(events)
    assert seen == list(range(20))
    assert makespan_s >= 0.99 * sum(event.busy_s for event in events)
    device.close()


def what_the_host_does_beside_the_lanes_counts(make: Make) -> None:
    """A copy submitted after `overlapped` ends no earlier than that and its own time; the layer ends no earlier."""
    device = make(1 << 10)
    target = device.allocate(1 << 10)
    device.begin_layer(0.0)
    device.decided(0.0)
    work = device.launch(Lane.GPU, lambda: 1, 1e-4)
    host_s = 0.05
    _host_works(device, host_s)
    copy = device.copy_in(torch.zeros(1 << 10, dtype=torch.uint8), target, seconds=0.01, urgent=False)
    makespan_s = device.end_layer([work, copy])
    assert makespan_s >= 0.99 * (host_s + copy.busy_s)
    _host_works(device, host_s)
    assert device.end_layer([device.launch(Lane.GPU, lambda: 1, 1e-4)]) >= 0.99 * host_s
    assert device.end_layer([device.launch(Lane.GPU, lambda: 1, 1e-4)]) < host_s
    device.close()


def an_error_reaches_the_caller_with_its_cause(make: Make) -> None:
    """LaneError, with what was raised as its cause; the lane goes on working."""
    device = make(8)
    device.begin_layer(0.0)
    device.decided(0.0)
    event = device.launch(Lane.CPU, lambda: 1 // 0, 1e-4)
    error = _raised(lambda: device.end_layer([event]), LaneError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert event.failed
    device.cancel()
    device.begin_layer(0.0)
    device.decided(0.0)
    again = device.launch(Lane.CPU, lambda: 5, 1e-4)
    device.end_layer([again])
    assert again.result() == 5
    device.close()


def closing_ends_threads_and_waiting_work(make: Make) -> None:
    """close() returns, twice; what waited is cancelled; no thread is left."""
    before = threading.active_count()
    device = make(8)
    target = device.allocate(8)
    device.begin_layer(0.0)
    device.decided(0.0)
    source = torch.zeros(8, dtype=torch.uint8)
    copies = [device.copy_in(source, target, seconds=60.0, urgent=False) for _ in range(3)]
    device.close()
    device.close()
    assert threading.active_count() == before
    for copy in copies:
        try:
            copy.result()
        except Cancelled:
            continue
        assert copy.done


def _host_works(device: Accelerator, seconds: float) -> None:
    """Let the host be busy: really, and as the device is told."""
    begin_s = time.perf_counter()
    if not device.emulated:
        time.sleep(seconds)
        seconds = time.perf_counter() - begin_s
    device.overlapped(seconds)


def _raised(act: Callable[[], object], kind: type[Exception]) -> Exception:
    """The error of that kind that `act` raises; without one the law is broken."""
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


LAWS: tuple[Callable[[Make], None], ...] = (
    capacity_is_hard,
    a_copy_brings_every_byte,
    work_waits_for_what_it_needs,
    lanes_overlap,
    a_lane_is_serial_and_in_order,
    what_the_host_does_beside_the_lanes_counts,
    an_error_reaches_the_caller_with_its_cause,
    closing_ends_threads_and_waiting_work,
)
