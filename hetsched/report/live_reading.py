"""What a live view shows: a run at one moment, read from its counts alone, beside how it was a few readings ago.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from hetsched.types import IntArray

WINDOW = 8  # readings that "lately" reaches back


class Lately(NamedTuple):
    """Since some readings ago; None where nothing of the kind has happened. `busy`: share of the time, by lane."""

    tokens_per_s: float | None
    hit_rate: float | None
    busy: dict[str, float]


@dataclass(frozen=True)
class LiveReading:
    """A run at one moment. `stats`: handle.stats(); `asked_LE`: tokens of late; `state_LE`: Residency's.

    `text` is what has been written, `wall_s` since the first reading, `most`: tokens that it may become.
    """

    title: tuple[str, ...]
    prompt: str
    text: str
    tokens: int
    most: int
    wall_s: float
    stats: dict[str, Any]
    speculation: dict[str, Any] | None
    state_LE: Any
    asked_LE: IntArray
    lately: Lately

    @property
    def tokens_per_s(self) -> float:
        """The lanes' own, of decoding alone; with speculation of the text, drafting included. 0 before any."""
        return float((self.speculation or self.stats)["tokens_per_s"])

    @property
    def kind(self) -> str:
        """What these seconds are."""
        return "emulated" if self.stats["emulated"] else "measured"


class Window:
    """The last readings' sums, of which differences are made."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._seen_LE: IntArray | int = 0
        self._asked_LE: IntArray | None = None

    def since(self, stats: dict[str, Any], seen_LE: IntArray) -> tuple[Lately, IntArray]:
        """What has changed since the oldest reading kept, and tokens [L, E] of each expert since the last one.

        Where nothing was asked for since, what was before that. `stats` as of handle.stats(), `seen_LE`: tokens of each
        expert so far.
        """
        names = "decode_tokens", "decode_s", "active", "hits", "total_s", "gpu_s", "link_s", "cpu_s"
        self._kept.append({name: stats[name] for name in names})
        before = self._kept[0]
        more = {name: stats[name] - before[name] for name in names}
        lately = Lately(
            _share(more["decode_tokens"], more["decode_s"]),
            _share(more["hits"], more["active"]),
            {lane: _share(more[f"{lane}_s"], more["total_s"]) or 0.0 for lane in ("gpu", "link", "cpu")},
        )
        asked_LE, self._seen_LE = seen_LE - self._seen_LE, seen_LE
        if self._asked_LE is None or asked_LE.any():
            self._asked_LE = asked_LE
        return lately, self._asked_LE


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
