"""What a GPU is checked for: each check returns plain figures, which tests/gpu judges and examples/gpu_check.py sends.

`make` gives a fresh accelerator of so many bytes. Shapes: T tokens, P pairs, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, TypeAlias

import torch

from ..accelerators.cuda.activation import Activation
from ..accelerators.cuda.experts import Experts
from ..accelerators.cuda.kernels import DecodeKernels
from ..accelerators.streams.device import StreamAccelerator
from ..accelerators.streams.lanes import DeviceWork
from ..testing.accelerators import LAWS, lanes_overlap
from ..types import Lane
from .drawn_experts import NAMES, DrawnExperts, summed

Make: TypeAlias = Callable[[int], StreamAccelerator]
COPY_BYTES = 256 << 20
MARK_BYTES = 1 << 20


def laws(make: Make) -> dict[str, str]:
    """Each conformance law with "kept" or what broke it.

    lanes_overlap is left out: its kernels take time on emulated devices only. overlap() puts real ones in their place.
    """
    found = {}
    for law in LAWS:
        if law is lanes_overlap:
            continue
        try:
            law(make)
            found[law.__name__] = "kept"
        except Exception as error:  # reported, not hidden: one broken law must not keep the others from being tried
            found[law.__name__] = f"{type(error).__name__}: {error}"
    return found


def overlap(make: Make, num_bytes: int = COPY_BYTES, pinned: bool = True) -> dict[str, float]:
    """A copy and computation of about its length, apart and together; seconds by device events.

    `hidden_share`: how much of the shorter was hidden behind the longer; 1 is all. `hold_s`: from the start of the copy
    to its end, which is more than `copy_s` when chunks come late.
    """
    device = make(num_bytes + MARK_BYTES)
    try:
        target = device.allocate(num_bytes)
        source = torch.ones(num_bytes, dtype=torch.uint8)
        if pinned and not device.pin(source):
            raise RuntimeError("; ".join(device.notes))
        alone_s = _copied(device, source, target)[1]
        kernel = _matmuls(device.device, alone_s)
        device.decided(0.0)
        compute = device.launch(Lane.GPU, kernel, 0.0)
        device.end_layer([compute])
        device.decided(0.0)
        copy = device.copy_in(source, target, seconds=alone_s, urgent=True)
        beside = device.launch(Lane.GPU, kernel, 0.0)
        makespan_s = device.end_layer([copy, beside])
        assert isinstance(beside, DeviceWork)
        first, last = copy.marks[0][0], copy.last
        begin_s = max(0.0, float(first.elapsed_time(beside.begin)) / 1e3)
        hold_s = float(first.elapsed_time(last)) / 1e3
        both_s = min(hold_s, float(first.elapsed_time(beside.end)) / 1e3) - begin_s
        return {
            "copy_s": copy.busy_s,
            "hold_s": hold_s,
            "compute_s": compute.busy_s,
            "compute_beside_copy_s": beside.busy_s,
            "makespan_s": makespan_s,
            "hidden_share": both_s / min(hold_s, beside.busy_s),
        }
    finally:
        device.close()


def urgency(make: Make, num_bytes: int = COPY_BYTES) -> dict[str, float]:
    """How long an urgent chunk waits behind a long background copy: seconds, by device events."""
    device = make(num_bytes + MARK_BYTES)
    try:
        target, source = device.allocate(num_bytes), torch.ones(num_bytes, dtype=torch.uint8)
        small, one = device.allocate(MARK_BYTES), torch.ones(MARK_BYTES, dtype=torch.uint8)
        device.pin(source)
        device.pin(one)
        _, alone_s = _copied(device, source, target)
        device.decided(0.0)
        slow = device.copy_in(source, target, seconds=alone_s, urgent=False)
        fast = device.copy_in(one, small, seconds=alone_s * MARK_BYTES / num_bytes, urgent=True)
        device.end_layer([slow, fast])
        waited_s = float(slow.marks[0][0].elapsed_time(fast.marks[0][0])) / 1e3
        return {"waited_s": waited_s, "background_s": slow.busy_s, "chunk_s": alone_s / slow.chunks}
    finally:
        device.close()


def kernels(
    dtype: torch.dtype, format_: str | None = None, hidden: int = 2048, ffn: int = 768, experts: int = 8
) -> dict[str, float]:
    """The decode kernels against torch for one token and `experts` experts: relative error, and seconds of both.

    `format_`: of the experts' weights, which torch unpacks at every call; None: plain, in `dtype`. `read_gb_per_s`: of
    the experts' bytes by the kernels. `unpack_gb_per_s`: likewise when they unpack them for torch's products.
    """
    decode, drawn = DecodeKernels(), DrawnExperts(dtype, format_, hidden, ffn, experts, torch.device("cuda"))
    weights, reading, activation = drawn.weights(), drawn.reading(), Activation(0)
    hidden_TH = torch.randn(1, hidden, device="cuda").to(dtype)
    row_P, weight_P = torch.zeros(experts, dtype=torch.int64, device="cuda"), torch.rand(experts, device="cuda")

    def fused() -> torch.Tensor:
        part_PH = decode.parts(reading, Experts(weights, [1] * experts), activation, hidden_TH, row_P, weight_P)
        return decode.scatter(part_PH, row_P, 1)

    def by_torch() -> torch.Tensor:
        return summed(weights, hidden_TH, weight_P)

    def unpacked() -> list[torch.Tensor]:
        return [each for one in weights for each in decode.unpacked(reading, one, hidden_TH)]

    exact_TH = summed(drawn.weights(exact=True), hidden_TH.double(), weight_P)
    same = [torch.equal(*pair) for pair in zip(unpacked(), (w[n] for w in weights for n in NAMES), strict=True)]
    fused_s, unpacked_s = _median_s(fused), _median_s(unpacked)
    return {
        "fused_error": float((fused() - exact_TH).norm() / exact_TH.norm()),
        "torch_error": float((by_torch() - exact_TH).norm() / exact_TH.norm()),
        "same_twice": float(torch.equal(fused(), fused())),
        "unpacked_alike": sum(same) / len(same),
        "fused_s": fused_s,
        "torch_s": _median_s(by_torch),
        "unpacked_s": unpacked_s,
        "read_gb_per_s": drawn.rows.numel() / fused_s / 1e9,
        "unpack_gb_per_s": drawn.rows.numel() / unpacked_s / 1e9,
    }


def predicted_and_executed(attachment: Any, generate: Callable[[], object]) -> dict[str, float]:
    """Each layer's makespan against the plan's prediction, while `generate` runs on an attached model."""
    outcomes: list[Any] = []
    scheduler = attachment.scheduler
    observe = scheduler.observe

    def noted(outcome: Any) -> None:
        outcomes.append(outcome)
        observe(outcome)

    scheduler.observe = noted
    try:
        generate()
    finally:
        del scheduler.observe
    errors = sorted(
        abs(outcome.makespan_s - outcome.plan.predicted_s) / outcome.plan.predicted_s
        for outcome in outcomes
        if outcome.plan.predicted_s > 0
    )
    return {
        "layers": len(errors),
        "median_error": median(errors),
        "p95_error": errors[int(0.95 * len(errors))],
        "predicted_s": sum(outcome.plan.predicted_s for outcome in outcomes),
        "executed_s": sum(outcome.makespan_s for outcome in outcomes),
        "decision_s": sum(outcome.plan.decision_s for outcome in outcomes),
        "pageable": len(attachment.engine.accelerator.notes),
    }


def _copied(device: StreamAccelerator, source: torch.Tensor, target: torch.Tensor) -> tuple[Any, float]:
    """One copy, the second of two: the first one pays for what is done once. Seconds by the host's clock."""
    for _ in range(2):
        device.decided(0.0)
        copy = device.copy_in(source, target, seconds=1.0, urgent=True)
        took_s = device.end_layer([copy])
    return copy, took_s


def _matmuls(device: torch.device, seconds: float) -> Callable[[], torch.Tensor]:
    """Device work of about that length, in launches small enough that a stream's order shows."""
    size = 2048 if device.type != "cpu" else 128
    a, b = torch.ones(size, size, device=device), torch.ones(size, size, device=device)
    one_s = _median_s(lambda: a @ b) if device.type == "cuda" else 1e-3
    count = max(1, round(seconds / one_s))

    def kernel() -> torch.Tensor:
        for _ in range(count):
            product = a @ b
        return product

    return kernel


def _median_s(call: Callable[[], object], rounds: int = 50) -> float:
    from ..measure.gpu import time_events

    return float(time_events(lambda _: call(), rounds * 1e-3).median_s)
