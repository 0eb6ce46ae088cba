"""WallTime: the time of layers on anything real, by the host's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .base import Event
from .host_lane import CallersWork


class WallTime:
    """LayerTime as it passes by itself: each section takes what has gone by since the one before."""

    _mark_s = 0.0
    apart_s = 0.0

    def begin_step(self) -> None:
        """Time before a forward pass is not the model's."""
        self._mark_s = time.perf_counter()

    def end_step(self) -> float:
        """Wall seconds since the last layer ended."""
        return self._since_mark_s()

    def begin_layer(self, dense_s: float, host_s: float = 0.0) -> float:
        """Wall seconds since the last layer ended; whoever has the router's ids has waited for the device."""
        return self._since_mark_s()

    def decided(self, decision_s: float) -> None:
        """The makespan begins here."""
        self._mark_s = time.perf_counter()

    def overlapped(self, seconds: float) -> None:
        """Wall time has passed by itself."""

    def end_layer(self, events: Sequence[Event]) -> float:
        """Wall seconds since the decision until the layer's events have come; the caller's own work is done first."""
        begin_s = time.thread_time()
        for event in events:
            if isinstance(event, CallersWork):
                event.do()
        for event in events:
            event.result()
        self.apart_s += time.thread_time() - begin_s
        return self._since_mark_s()

    def _since_mark_s(self) -> float:
        now_s = time.perf_counter()
        took_s, self._mark_s = now_s - self._mark_s, now_s
        return took_s
