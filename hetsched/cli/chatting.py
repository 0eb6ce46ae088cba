"""The loop of `run --chat`: questions from standard input, answers to standard output as they come.

On a terminal a sign asks for each question; in a pipe every line is one, and only answers are written.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from hetsched.errors import InputError
from hetsched.report.run_view import stop_line

from .conversation import Conversation, Remembered
from .generating import Generated, generate

QUIT = "/quit"
SIGN = "> "
HINT = f"one question a line; {QUIT} or Ctrl-D ends, Ctrl-C ends an answer"


def chat(
    model: Any, tokenizer: Any, conversation: Conversation, first: str | None, *, remember: bool, **more: Any
) -> Generated:
    """Answer `first`, if there is one, then every line of standard input. All answers' tokens and seconds.

    `remember`: keep keys and values from answer to answer. `more`: generate()'s settings.
    """
    if sys.stdin.isatty():
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 - input() edits lines by it
        print(HINT, file=sys.stderr)
    new: list[int] = []
    wall_s = 0.0
    with _ctrl_c() as stop:
        memory = Remembered(model) if remember else None
        for question in _questions(first):
            try:
                ids = conversation.ask(question)
            except InputError as error:
                print(f"hetsched: {error}", file=sys.stderr)
                continue
            made = _answer(model, tokenizer, ids, conversation.room_after(ids), memory, stop, more)
            conversation.answered(made.text)
            new += made.new
            wall_s += made.wall_s
    return Generated("", new, wall_s, "other")


def _answer(
    model: Any,
    tokenizer: Any,
    ids: Any,
    room: int,
    memory: Remembered | None,
    stop: _CtrlC,
    more: dict[str, Any],
) -> Generated:
    """One answer of at most `room` tokens, streamed."""
    kept = {} if memory is None else memory.settings(ids)
    with stop.answering():
        made = generate(model, tokenizer, ids, room, stream=True, stopping_criteria=[stop], **kept, **more)
    if memory is not None:
        memory.keep(ids, made.new)
    if said := stop_line(made.stopped_by, room):
        print(said, file=sys.stderr)
    return made


def _questions(first: str | None) -> Iterator[str]:
    """Lines that are not blank, up to /quit, the end of the input, or a Ctrl-C while one is awaited."""
    if first is not None:
        if sys.stdin.isatty():
            print(f"{SIGN}{first}")
        yield first
    while True:
        try:
            line = _line()
        except (EOFError, KeyboardInterrupt):
            if sys.stdin.isatty():
                print()
            return
        if line.strip() == QUIT:
            return
        if line.strip():
            yield line.strip()


def _line() -> str:
    """The next line, with its history on a terminal. Raises EOFError after the last."""
    if sys.stdin.isatty():
        return input(SIGN)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


class _CtrlC:
    """A stopping criterion: one Ctrl-C ends the answer being written, after its token; any other raises as usual."""

    def __init__(self) -> None:
        self._asked = False
        self._answering = False

    def __call__(self, ids: Any, _scores: Any, **_: Any) -> Any:
        """Whether each sequence [B, T] is to end, bool [B]."""
        import torch

        return torch.full(ids.shape[:1], self._asked, device=ids.device)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The time of an answer."""
        self._asked, self._answering = False, True
        try:
            yield
        finally:
            self._answering = False

    def caught(self, _number: int, _frame: FrameType | None) -> None:
        """The signal's handler. Raises KeyboardInterrupt where no answer is to end, or it is asked for again."""
        if self._asked or not self._answering:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def _ctrl_c() -> Iterator[_CtrlC]:
    """Context in which Ctrl-C ends answers. In other threads than the main one it is not ours to hear."""
    stop = _CtrlC()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop.caught)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
