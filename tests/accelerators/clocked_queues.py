"""A device without hardware for the stream accelerator: streams whose copies take the time they are given.

Every operation's end is known when it is queued, as on a device that never stalls; bytes move when that moment has come
and not before, so whoever reads too early reads the old ones. Kernels run in their launcher's thread, after everything
their stream waits for: launches are synchronous here, copies are not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hetsched.accelerators.streams.queues import Queues


class Stream:
    """Free again at `free_s` on the host's clock."""

    def __init__(self) -> None:
        self.free_s = 0.0

    def wait_event(self, event: Event) -> None:
        assert event.at_s is not None, "a stream cannot wait for an event that was not recorded"
        self.free_s = max(self.free_s, event.at_s)


class Event:
    """A moment of a stream."""

    def __init__(self, queues: ClockedQueues) -> None:
        self.queues = queues
        self.at_s: float | None = None

    def record(self, stream: Stream) -> None:
        stream.free_s = max(stream.free_s, self.queues.now_s())
        self.at_s = stream.free_s

    def query(self) -> bool:
        assert self.at_s is not None
        come = self.at_s <= self.queues.now_s()
        if come:
            self.queues.move_bytes()
        return come

    def elapsed_time(self, other: Event) -> float:
        assert self.query()
        assert other.query()
        assert self.at_s is not None
        assert other.at_s is not None
        return (other.at_s - self.at_s) * 1e3


class ClockedQueues(Queues):
    """`bytes_per_s` of the link. `pinnable`: whether host memory counts as pinned. `failing`: copies raise."""

    def __init__(self, bytes_per_s: float = 1e9, pinnable: bool = True) -> None:
        super().__init__(torch.device("cpu"))
        self.bytes_per_s = bytes_per_s
        self.pinnable = pinnable
        self.failing = False
        self.sent: list[int] = []  # bytes of each chunk, in order
        self.pinned_at: set[int] = set()  # addresses of memory that was pinned in place
        self._streams = threading.local()
        self._moves: list[tuple[float, torch.Tensor, torch.Tensor]] = []
        self._moving = threading.Lock()
        self._clock = threading.Lock()
        self._stood_s = 0.0  # what the device's clock is behind ours
        self._still_s: float | None = None
        self._default = Stream()

    def now_s(self) -> float:
        """The device's clock."""
        with self._clock:
            return time.perf_counter() - self._stood_s if self._still_s is None else self._still_s

    @contextmanager
    def standing(self) -> Iterator[None]:
        """The device's time stands still: whatever is submitted inside is submitted at one moment, for the device."""
        with self._clock:
            self._still_s = began_s = time.perf_counter() - self._stood_s
        try:
            yield
        finally:
            with self._clock:
                self._stood_s, self._still_s = time.perf_counter() - began_s, None

    def stream(self) -> Any:
        return Stream()

    def current(self) -> Any:
        return self._default

    def event(self) -> Any:
        return Event(self)

    def copy(self, stream: Stream, source: torch.Tensor, target: torch.Tensor) -> None:
        if self.failing:
            raise RuntimeError("the copy engine is on fire")
        num_bytes = source.numel() * source.element_size()
        self.sent.append(num_bytes)
        with self._moving:
            stream.free_s = max(stream.free_s, self.now_s()) + num_bytes / self.bytes_per_s
            self._moves.append((stream.free_s, source, target))

    def run(self, stream: Stream, kernel: Callable[[], Any]) -> Any:
        time.sleep(max(0.0, stream.free_s - self.now_s()))
        self.move_bytes()
        return kernel()

    def move_bytes(self) -> None:
        """Let all copies take effect whose time has come."""
        with self._moving:
            now_s = self.now_s()
            for at_s, source, target in self._moves:
                if at_s <= now_s:
                    target.copy_(source)
            self._moves = [move for move in self._moves if move[0] > now_s]

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def is_pinned(self, memory: torch.Tensor) -> bool:
        return self.pinnable

    def free_bytes(self) -> int:
        return 1 << 30

    def give_back(self) -> None:
        pass

    def pin(self, memory: torch.Tensor) -> bool:
        if self.pinnable:
            self.pinned_at.add(memory.data_ptr())
        return self.pinnable

    def unpin(self, memory: torch.Tensor) -> None:
        self.pinned_at.discard(memory.data_ptr())
