"""HostTime: what the engine's own Python costs the thread that calls it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..accelerators.base import LayerTime
from ..stats import RunStats


class HostTime:
    """Processor seconds of the calling thread between the door and the way out, decisions and waits apart.

    A layer is charged what has come since the one before was: that one's launching and summing, its own door and
    demand. Not counted are waits (`apart_s` of its time), what is asked of the link for a decision, nor what other
    threads do to this one, since that is no processor time of its own. On an emulated machine the charge is to pass on
    its clock; on a real one the wall contains it, and the statistics are told. `charge_s`: charge this instead, for
    reproducible runs. `last_s`: what was measured for the last layer.
    """

    def __init__(
        self, layer_time: LayerTime, emulated: bool, stats: RunStats, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self.charge_s: float | None = None
        self.last_s = 0.0
        self._time, self._emulated, self._stats, self._clock = layer_time, emulated, stats, clock
        self._since_s = self._open_s = 0.0

    def resume(self, entered_s: float | None = None) -> None:
        """The engine's own begins now, or did when the thread's clock said `entered_s`."""
        self._since_s = (self._clock() if entered_s is None else entered_s) - self._time.apart_s

    def pause(self) -> None:
        """What comes now is not the engine's own."""
        self._open_s += self._clock() - self._time.apart_s - self._since_s

    def charged(self) -> float:
        """Seconds to let pass for a layer, 0 where they have passed by themselves; what comes now is not its own."""
        host_s = self._open_s + self._clock() - self._time.apart_s - self._since_s
        if host_s < 0.0:
            host_s = 0.0
        self.last_s, self._open_s = host_s, 0.0
        if self._emulated:
            return host_s if self.charge_s is None else self.charge_s
        self._stats.record_host_inside(host_s)
        return 0.0
