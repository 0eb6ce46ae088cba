"""What the executor needs when copies and kernels fail: who is told, how long is waited, and what stands for failures.

A copy that failed is not tried again in its layer: the weights are on the host and the CPU lane is at hand, while a
second copy would cost the layer a whole transfer. The policy may fetch the expert again when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from ..accelerators.base import Accelerator, Cancelled, Event, LaneError
from ..accelerators.host_memory import Here
from ..faults import Fault, story
from ..types import ExpertId
from .slots import SHORT
from .under_way import LaneCall

STUCK_LAYERS = 256  # with the same copy at the head of the link, before its age is looked at


class Patience(NamedTuple):
    """When a copy is given up: after `times` its predicted seconds, with all ahead of it, and `slack_s` on the wall.

    Generous, since emulated machines stretch time and a busy host stops threads; a copy given up in error costs time.
    """

    times: float = 100.0
    slack_s: float = 10.0


class Listener(Protocol):
    """Who is told what failed; the scheduler."""

    def lose(self, expert: ExpertId, reason: str) -> None:
        """A copy will never arrive; its slot is free."""
        ...

    def fault(self, fault: Fault, reason: str) -> None:
        """Something else was survived."""
        ...


class RefusedWork:
    """The Event of work that an accelerator would not take."""

    done = True
    failed = True
    busy_s = 0.0
    stall_s = 0.0

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> Any:
        """Raises LaneError with the cause."""
        raise LaneError(f"work was refused: {self._error}") from self._error


class LinkAge:
    """For how long the copy engine has been at the same copy."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._head: Event | None = None
        self._layers = 0
        self._since_s = 0.0

    def is_over(self, head: Event, limit_s: float) -> bool:
        """Whether `head` has been the first unfinished copy for many layers and longer than `limit_s`."""
        if head is not self._head:
            self._head, self._layers, self._since_s = head, 0, self._clock()
            return False
        self._layers += 1
        return self._layers > STUCK_LAYERS and self._clock() - self._since_s > limit_s


def on_the_cpu(call: LaneCall, experts: str, listener: Listener) -> tuple[LaneCall, str]:
    """The call that takes the place of a failed one, on the CPU lane, and why; `listener` is told what failed.

    Raises the event's LaneError when the CPU lane had its second try.
    """
    if call.again:
        call.event.result()
    error = error_of(call.event)
    told = f"{experts}: {story(error)}"
    cancelled = isinstance(error, Cancelled)  # with an overdue copy; no fault of its own
    if not call.on_gpu:
        if not cancelled:
            listener.fault(Fault.CPU, told)
        return LaneCall(False, call.at_N, again=True), "once more: the CPU lane failed"
    if call.copy is not None and call.copy.failed:  # told when the copy is dropped
        return LaneCall(False, call.at_N), "its copy failed"
    if not cancelled:
        listener.fault(Fault.GPU, told)
    return LaneCall(False, call.at_N), "the GPU lane failed"


def error_of(event: Event) -> BaseException:
    """What a failed event raises: LaneError with its cause, or Cancelled."""
    try:
        event.result()
    except (LaneError, Cancelled) as error:
        return error
    raise AssertionError("a failed event gave a result")


def is_short(event: Event) -> bool:
    """Whether what failed lacked memory on the device."""
    error: BaseException | None = error_of(event)
    while error is not None and not isinstance(error, SHORT):
        error = error.__cause__
    return error is not None


def copy_to_host(accelerator: Accelerator, tensor: torch.Tensor, listener: Listener) -> Event:
    """A device tensor on its way to the host; through pageable memory, at once, where there is no pinned left."""
    try:
        return accelerator.bring(tensor)
    except RuntimeError as error:
        listener.fault(Fault.PINNING, story(error))
        return Here(tensor.cpu())


def copy_to_device(accelerator: Accelerator, tensor: torch.Tensor, listener: Listener) -> torch.Tensor:
    """A host tensor on the device, the same way back."""
    try:
        return accelerator.send(tensor)
    except RuntimeError as error:
        listener.fault(Fault.PINNING, story(error))
        return tensor.to(accelerator.device)
