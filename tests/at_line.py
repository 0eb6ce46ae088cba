"""Ctrl-C at a chosen line of the project's own code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class AtLine:
    """A context in which this thread gets KeyboardInterrupt at the n-th line of the frames that `is_ours` takes.

    `at` 0 only counts them; `lines` so far, `where` it was raised.
    """

    def __init__(self, at: int, is_ours: Callable[[FrameType], bool]) -> None:
        self.at, self.lines, self.where, self._is_ours = at, 0, "", is_ours

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._is_ours(frame):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> AtLine:
        self._before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
