"""Fault injection: an accelerator, a solver and a policy that go wrong on purpose, the same way for the same seed.

`FaultyAccelerator` wraps any accelerator and plants what hardware does: copies that fail, are refused or never end,
kernels that raise. Failing copies and kernels really fail inside the wrapped one, on its own error path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, cast

import torch

from ..accelerators.base import Accelerator, Cancelled, Event
from ..types import Lane

COPY_FAILS, COPY_REFUSED, COPY_HANGS = "copy fails", "copy refused", "copy never ends"
GPU_RAISES, GPU_MEMORY, CPU_RAISES = "GPU kernel raises", "GPU kernel out of memory", "CPU kernel raises"
OF_COPIES, OF_GPU, OF_CPU = (COPY_FAILS, COPY_REFUSED, COPY_HANGS), (GPU_RAISES, GPU_MEMORY), (CPU_RAISES,)


class InjectedFault(RuntimeError):
    """An error that was injected."""


class Hung:
    """An Event that never ends by itself; cancelling ends it."""

    busy_s = 0.0
    stall_s = 0.0

    def __init__(self) -> None:
        self._ended = threading.Event()

    @property
    def done(self) -> bool:
        """Whether it was cancelled."""
        return self._ended.is_set()

    @property
    def failed(self) -> bool:
        """The same."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Let whoever waits go on."""
        self._ended.set()

    def result(self) -> Any:
        """Wait for the cancellation; raises Cancelled."""
        self._ended.wait()
        raise Cancelled("it hung until it was cancelled")


class Dice:
    """Which kind of fault comes next, if any. `rates`: share of calls by kind; `limit`: faults in all."""

    def __init__(self, rates: Mapping[str, float], seed: int = 0, limit: int | None = None) -> None:
        self._rates = dict(rates)
        self._random = Random(seed)
        self._limit = limit
        self.thrown: dict[str, int] = {}

    def throw(self, kinds: Iterable[str]) -> str | None:
        """One of the kinds, or None."""
        for kind in kinds:
            rate = self._rates.get(kind, 0.0)
            if rate and self._random.random() < rate and (self._limit is None or self.count < self._limit):
                self.thrown[kind] = self.thrown.get(kind, 0) + 1
                return kind
        return None

    def may_throw(self, kind: str) -> bool:
        """Whether this kind has a rate."""
        return self._rates.get(kind, 0.0) > 0

    def stop(self) -> None:
        """No faults from now on."""
        self._rates.clear()

    @property
    def count(self) -> int:
        """Faults so far."""
        return sum(self.thrown.values())


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th call, once: `at`, None for never. `count`: calls so far."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.count = 0

    def begin(self, at: int | None) -> None:
        """Count anew."""
        self.at, self.count = at, 0

    def __call__(self, name: str) -> None:
        """One call."""
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt

    def surround(self, thing: Any, names: Iterable[str]) -> None:
        """Count before and after each call of these methods of an object, as if they were calls themselves."""
        for name in names:
            setattr(thing, name, self._counted(getattr(thing, name), name))

    def _counted(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self(name)
            value = method(*args, **kwargs)
            self(name)
            return value

        return call


class FaultyAccelerator:
    """An accelerator whose copies and kernels fail by the dice; all else is the wrapped one's.

    A copy that never ends keeps the copy engine, and the GPU lane as soon as work there needs it, until cancel().
    `before_call(name)` runs before every call of copy_in, launch, end_layer and the other methods of a layer; what it
    raises, as KeyboardInterrupt, is raised to the caller.
    """

    def __init__(self, inner: Accelerator, dice: Dice, before_call: Callable[[str], None] | None = None) -> None:
        self._inner = inner
        self._dice = dice
        self._before_call = before_call or (lambda name: None)
        self._hung: list[Hung] = []
        self._hung_copies: dict[Hung, float] = {}
        self._gpu_hangs = False
        self._cancelling = threading.Lock()

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> Event:
        """The copy, or one that fails, or one that never ends; behind such a one no other ends."""
        self._before_call("copy_in")
        kind = None if self._hung_copies else self._dice.throw(OF_COPIES)
        if kind == COPY_REFUSED:
            raise InjectedFault("the copy engine took no copy")
        if kind == COPY_HANGS or self._hung_copies:
            hung = self._hang()
            self._hung_copies[hung] = seconds
            return hung
        if kind == COPY_FAILS:
            target = target[: len(target) // 2]  # one byte too many does the same
        return self._inner.copy_in(source, target, seconds=seconds, urgent=urgent)

    def launch(self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()) -> Event:
        """The work, or work that raises; behind a copy that never ends, none of the GPU lane ends."""
        self._before_call("launch")
        if lane is Lane.GPU and (self._gpu_hangs or any(isinstance(event, Hung) for event in after)):
            self._gpu_hangs = True
            return self._hang()
        kind = self._dice.throw(OF_GPU if lane is Lane.GPU else OF_CPU)
        if kind is not None:
            kernel = _raises(torch.OutOfMemoryError(kind) if kind == GPU_MEMORY else InjectedFault(kind))
        return self._inner.launch(lane, kernel, seconds, after)

    def promote(self, copy: Event) -> None:
        """As the wrapped one; what hangs stays where it is."""
        self._before_call("promote")
        if not isinstance(copy, Hung):
            self._inner.promote(copy)

    def copy_state(self) -> tuple[float, Sequence[tuple[Event, float]]]:
        """As the wrapped one, with what hangs at the end."""
        self._before_call("copy_state")
        free_s, unfinished = self._inner.copy_state()
        return free_s, [*unfinished, *self._hung_copies.items()]

    def end_layer(self, events: Sequence[Event]) -> float:
        """Wait for what ends, then for what does not."""
        self._before_call("end_layer")
        makespan_s = self._inner.end_layer([event for event in events if not isinstance(event, Hung)])
        for event in events:
            if isinstance(event, Hung):
                event.result()
        return makespan_s

    def begin_layer(self, dense_s: float, host_s: float = 0.0) -> float:
        """As the wrapped one."""
        self._before_call("begin_layer")
        return self._inner.begin_layer(dense_s, host_s)

    def decided(self, decision_s: float) -> None:
        """As the wrapped one."""
        self._before_call("decided")
        self._inner.decided(decision_s)

    def overlapped(self, seconds: float) -> None:
        """As the wrapped one."""
        self._before_call("overlapped")
        self._inner.overlapped(seconds)

    def cancel(self) -> None:
        """End what hangs, then as the wrapped one."""
        with self._cancelling:
            self._inner.cancel()
            for hung in self._hung:
                hung.cancel()
            self._hung.clear()
            self._hung_copies.clear()
            self._gpu_hangs = False

    def close(self) -> None:
        """The same, and close the wrapped one."""
        self.cancel()
        self._inner.close()

    def _hang(self) -> Hung:
        hung = Hung()
        self._hung.append(hung)
        return hung

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def faulty(inner: Accelerator, dice: Dice, before_call: Callable[[str], None] | None = None) -> Accelerator:
    """`inner` with faults by the dice; see FaultyAccelerator."""
    return cast(Accelerator, FaultyAccelerator(inner, dice, before_call))


def _raises(error: Exception) -> Callable[[], Any]:
    def kernel() -> Any:
        raise error

    return kernel
