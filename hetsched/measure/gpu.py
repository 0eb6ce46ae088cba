"""Measures the GPU: expert FFNs quiet and beside copies, read rate, and the rest of a layer. CUDA and ROCm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from threading import Event, Thread
from typing import TypeAlias

import torch
import torch.nn.functional as F

from ..cpu_kernels.torch_kernels import TorchLinear
from ..machine.profile import DenseTable, LatencyTable, Processor
from .calls import measure_calls
from .cpu import runnable_shape
from .dense import dense_call_s, measure_dense
from .experts import DTYPES, ExpertPool
from .request import Request
from .table import measure_table, table_notes
from .timing import Timing, quietest

BATCH = 32  # calls queued between two waits: the lane is a queue, not one call at a time
TABLE_SHARE, BUSY_SHARE, DENSE_SHARE = 0.4, 0.3, 0.1
COPY_BYTES = 64 << 20

Dense: TypeAlias = tuple[DenseTable, ...]


def gpu_present() -> bool:
    """Whether torch can use a GPU."""
    return torch.cuda.is_available()


def measure_gpu(request: Request) -> tuple[Processor, list[str]]:
    """The GPU's profile and notes. Raises RuntimeError of torch when the device fails."""
    shape, notes = runnable_shape(request.shape, packed=False)
    dtype, name = DTYPES[shape.dtype], torch.cuda.get_device_name(0)
    properties = torch.cuda.get_device_properties(0)
    pool = ExpertPool(shape, dtype, "cuda", cache=int(getattr(properties, "L2_cache_size", 64 << 20)))
    kernel = TorchLinear(dtype)

    def time_at(tokens: int, seconds: float) -> Timing:
        hidden_TH = torch.randn(tokens, shape.hidden).to("cuda", dtype)
        request.report(seconds, f"experts on the GPU, {tokens} tokens")
        return time_events(lambda i: kernel.swiglu(hidden_TH, pool.at(i, kernel)), seconds)

    quiet = measure_table(time_at, shape, request.tokens, request.budget_s * TABLE_SHARE, f"{kernel.name} on cuda")
    with copies_running():
        seconds = request.budget_s * BUSY_SHARE
        busy = measure_table(time_at, shape, request.tokens, seconds, f"{kernel.name} on cuda", copy_busy=True)
    notes += table_notes("gpu", quiet, request.tokens)
    dense = measure_dense(request, F.linear, time_events, dtype, request.budget_s * DENSE_SHARE, "cuda")
    processor = _processor(name, properties.total_memory, quiet, busy, kernel, dense)
    calls = measure_calls(kernel, time_events, dtype, 0.4, "cuda").within(min(quiet.median_s_P))
    dense_s = dense_call_s(F.linear, time_events, dtype, 0.1, "cuda")
    return replace(processor, **calls._asdict(), dense_call_s=dense_s), notes


def time_events(call: Callable[[int], object], budget_s: float) -> Timing:
    """Seconds on the device between two events around each call, `BATCH` calls queued at a time."""
    call(0)
    torch.cuda.synchronize()

    def one_round(first: int, round_s: float) -> list[float]:
        durations = _batch(call, first)
        while sum(durations) < round_s and len(durations) < 10 * BATCH:
            durations += _batch(call, first + len(durations))
        return durations

    return quietest(one_round, budget_s)


def _batch(call: Callable[[int], object], first: int) -> list[float]:
    marks = [_mark()]
    for number in range(first, first + BATCH):
        call(number)
        marks.append(_mark())
    torch.cuda.synchronize()
    return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(marks)]


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


@contextmanager
def copies_running() -> Iterator[None]:
    """Keeps the host-to-device copy engine busy from another thread and stream while the body runs."""
    stop, stream = Event(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")

    def copy() -> None:
        with torch.cuda.stream(stream):
            while not stop.is_set():
                target.copy_(source, non_blocking=True)
                stream.synchronize()

    thread = Thread(target=copy, name="hetsched-copies", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _processor(
    name: str, memory_bytes: int, quiet: LatencyTable, busy: LatencyTable, kernel: TorchLinear, dense: Dense
) -> Processor:
    flops = max(2.0 * quiet.shape.params * n / s for n, s in zip(quiet.tokens_P, quiet.median_s_P, strict=True))
    read_rate = max(_read_rate(), quiet.shape.params * kernel.weight_bytes / quiet.median_s_P[0])
    return Processor(
        name=name,
        capacity_bytes=memory_bytes,
        read_bytes_per_s=float(f"{read_rate:.4g}"),
        flops_per_s=float(f"{flops:.4g}"),
        call_s=0.0,  # measured last
        tables=(quiet, busy),
        dense=dense,
    )


def _read_rate() -> float:
    memory = torch.ones(1 << 27, dtype=torch.int64, device="cuda")
    return memory.numel() * 8 / time_events(lambda _: memory.sum(), 0.5).median_s
