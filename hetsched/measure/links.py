"""Measures the copy engine in both directions, from pinned and pageable memory, and its contention with the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import NamedTuple

import numpy as np
import torch

from ..machine.memory import free_bytes
from ..machine.profile import Link
from .gpu import copies_running
from .request import Request
from .table import round_s
from .timing import time_calls

SIZES_BYTES = tuple(64 * 1024 * 4**i for i in range(7))  # 64 KiB to 256 MiB
PIN_PIECE_BYTES = 1 << 30
PIN_SHARE = 0.5  # of free memory: more would starve the machine for the sake of a figure


def measure_links(request: Request) -> tuple[Link, Link]:
    """Host to device, and device to host."""
    share_s = request.budget_s * 0.2 / 4
    fits: dict[tuple[bool, bool], LinkFit] = {}
    for to_device in (True, False):
        for pinned in (True, False):
            request.report(
                share_s, f"copies {'to' if to_device else 'from'} the GPU, {'pinned' if pinned else 'pageable'}"
            )
            fits[to_device, pinned] = fit_link(SIZES_BYTES, _seconds(to_device, pinned, share_s))
    return _link(fits[True, True], fits[True, False]), _link(fits[False, True], fits[False, False])


def _seconds(to_device: bool, pinned: bool, budget_s: float) -> list[float]:
    """Median seconds of each size; the source moves through the buffer, so that no cache holds it."""
    host = torch.empty(SIZES_BYTES[-1], dtype=torch.uint8, pin_memory=pinned)
    device = torch.empty(SIZES_BYTES[-1], dtype=torch.uint8, device="cuda")
    source, target = (host, device) if to_device else (device, host)
    return [time_calls(_copy(source, target, size), budget_s / len(SIZES_BYTES)).median_s for size in SIZES_BYTES]


def _copy(source: torch.Tensor, target: torch.Tensor, size: int) -> Callable[[int], None]:
    def copy(number: int) -> None:
        start = number * size % (source.numel() - size + 1) // 4096 * 4096
        target[start : start + size].copy_(source[start : start + size], non_blocking=True)
        torch.cuda.synchronize()

    return copy


def _link(pinned: LinkFit, pageable: LinkFit) -> Link:
    return Link(
        latency_s=round_s(pinned.latency_s),
        bytes_per_s=float(f"{pinned.bytes_per_s:.4g}"),
        pageable_latency_s=round_s(pageable.latency_s),
        pageable_bytes_per_s=float(f"{pageable.bytes_per_s:.4g}"),
        residual=float(f"{pinned.residual:.3g}"),
    )


def measure_contention(cpu_expert: Callable[[int], object], expert_bytes: int, budget_s: float) -> tuple[float, float]:
    """cpu_slowdown, h2d_slowdown: each lane timed alone and beside the other; at least 1."""
    size = min(expert_bytes, SIZES_BYTES[-1])
    source = torch.empty(SIZES_BYTES[-1], dtype=torch.uint8, pin_memory=True)
    target = torch.empty(SIZES_BYTES[-1], dtype=torch.uint8, device="cuda")
    copy, part_s = _copy(source, target, size), budget_s / 4
    alone_cpu, alone_copy = time_calls(cpu_expert, part_s).median_s, time_calls(copy, part_s).median_s
    with copies_running():
        busy_cpu = time_calls(cpu_expert, part_s).median_s
    with _experts_running(cpu_expert):
        busy_copy = time_calls(copy, part_s).median_s
    return max(round(busy_cpu / alone_cpu, 3), 1.0), max(round(busy_copy / alone_copy, 3), 1.0)


@contextmanager
def _experts_running(cpu_expert: Callable[[int], object]) -> Iterator[None]:
    stop = Event()

    def compute() -> None:
        number = 0
        while not stop.is_set():
            cpu_expert(number := number + 1)

    thread = Thread(target=compute, name="hetsched-experts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def pinnable_bytes(limit_bytes: int | None = None) -> int:
    """Memory that could be pinned, tried in pieces of 1 GiB up to half of what is free: at least this much."""
    limit = limit_bytes or int(free_bytes() * PIN_SHARE)
    held: list[torch.Tensor] = []
    try:
        while (len(held) + 1) * PIN_PIECE_BYTES <= limit:
            held.append(torch.empty(PIN_PIECE_BYTES, dtype=torch.uint8, pin_memory=True))
    except RuntimeError:  # the driver refused: what is held so far is the answer
        pass
    return len(held) * PIN_PIECE_BYTES


class LinkFit(NamedTuple):
    """latency_s + bytes / bytes_per_s; `residual`: root mean square of predicted / measured - 1."""

    latency_s: float
    bytes_per_s: float
    residual: float


def fit_link(sizes_bytes: Sequence[int], seconds: Sequence[float]) -> LinkFit:
    """Least squares on relative errors, so that small copies count as much as large ones; latency at least 0.

    Raises ValueError with fewer than two sizes.
    """
    sizes, times = np.asarray(sizes_bytes, float), np.asarray(seconds, float)
    if len(sizes) < 2:
        raise ValueError("a latency and a rate need at least two sizes")
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) / times[:, None]
    latency, slope = np.linalg.lstsq(columns, np.ones_like(times), rcond=None)[0]
    if latency < 0.0:
        latency, slope = 0.0, 1.0 / np.median(sizes / times)
    residual = float(np.sqrt(np.mean(((latency + slope * sizes) / times - 1) ** 2)))
    return LinkFit(float(latency), float(1.0 / slope), residual)
