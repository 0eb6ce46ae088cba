"""`run --live`: a screen that is drawn between tokens, and without a terminal a line now and then.

Nothing is done in the hot path and there is no thread: after a token the screen is drawn if it is time, at most
MOST_PER_S times a second and, where drawing is slow, for SHARE of the time. An emulated machine's time stands still
meanwhile; on a real one copies go on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hetsched.engine.interrupts import uninterrupted
from hetsched.errors import InputError
from hetsched.report.live_reading import LiveReading, Window
from hetsched.report.live_view import LiveView, live_line, printable
from hetsched.report.tables import console, say

from .generating import Generated, generate

MOST_PER_S, SHARE, LONGEST_S = 8, 0.05, 2.0  # a terminal that was stopped by Ctrl-S is no reason to wait for long
LINE_TOKENS = 16  # from one line to the next, where there is no screen


class Watched:
    """A run that is watched: reads what it has come to, and is told its text."""

    def __init__(self, handle: Any, speculation: Any, title: tuple[str, ...], prompt: str, most: int) -> None:
        self.text, self.tokens = "", 0
        self._handle, self._speculation = handle, speculation
        self._title, self._prompt, self._most = title, prompt, most
        self._window, self._begin_s = Window(), time.perf_counter()

    def read(self) -> LiveReading:
        """The run now."""
        stats, scheduler = self._handle.stats(), self._handle.scheduler
        lately, asked_LE = self._window.since(stats, scheduler.tokens_LE)
        return LiveReading(
            self._title,
            self._prompt,
            self.text,
            self.tokens,
            self._most,
            time.perf_counter() - self._begin_s,
            stats,
            self._speculation and self._speculation.stats(),
            scheduler.residency.state_LE,
            asked_LE,
            lately,
        )


def watched(args: argparse.Namespace, handle: Any, speculation: Any, most: int) -> Watched:
    """The run of the verb's arguments; `most`: tokens at most."""
    kind = "emulated" if handle.engine.accelerator.emulated else "measured"
    title = Path(args.model).name, f"{handle.hardware.name} ({kind})", handle.scheduler.policy.name
    return Watched(handle, speculation, title, args.prompt, most)


class Streamer:
    """transformers' streamer of a run: its text goes to `told` as it comes, and `after` is called after each token."""

    def __init__(self, tokenizer: Any, run: Watched, told: Callable[[str], None], after: Callable[[], None]) -> None:
        import transformers

        self._texts = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._texts.on_finalized_text = self._finalized
        self._run, self._told, self._after, self._in_prompt = run, told, after, True

    def put(self, ids: Any) -> None:
        """Token ids: the prompt's at first, then each step's."""
        self._texts.put(ids)
        if not self._in_prompt:
            self._run.tokens += ids.numel()
            self._after()
        self._in_prompt = False

    def end(self) -> None:
        """The text is whole."""
        self._texts.end()

    def _finalized(self, text: str, stream_end: bool = False) -> None:
        self._run.text += text
        self._told(text + ("\n" if stream_end else ""))


def generate_live(run: Watched, model: Any, tokenizer: Any, ids: Any, most: int, **settings: Any) -> Generated:
    """As generate(), on a screen; the text, whole or as far as it came, is on standard output in the end.

    Raises InputError for beams, whose text comes at once.
    """
    if settings.get("num_beams", model.generation_config.num_beams or 1) != 1:
        raise InputError("this model's text is searched for with beams and comes at once: drop --live, or add --greedy")
    to = console()
    if not sys.stdout.isatty() or to.is_dumb_terminal:
        lines = Streamer(tokenizer, run, _write, _Lines(run).say_if_due)
        return generate(model, tokenizer, ids, most, stream=False, streamer=lines, **settings)
    try:
        with _errors_afterwards(), _screen(run, to) as screen:
            shown = Streamer(tokenizer, run, lambda text: None, screen.draw_if_due)
            return generate(model, tokenizer, ids, most, stream=False, streamer=shown, **settings)
    finally:
        to.print(Text(printable(run.text.rstrip("\n"))))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _Lines:
    """Says how a run stands, every LINE_TOKENS tokens or, where several come at once, soon after."""

    def __init__(self, run: Watched) -> None:
        self._run, self._next = run, LINE_TOKENS

    def say_if_due(self) -> None:
        """Say it, if there are tokens enough."""
        if self._run.tokens >= self._next:
            self._next = self._run.tokens - self._run.tokens % LINE_TOKENS + LINE_TOKENS
            say(live_line(self._run.read()))


class _Screen:
    """Draws a run on `live`. What comes while it draws, a new size among it, it does not draw for."""

    def __init__(self, run: Watched, live: Live) -> None:
        self._run, self._live = run, live
        self._drawing, self._next_s = False, 0.0

    def draw_if_due(self) -> None:
        """Draw, if the last time is long enough ago."""
        if time.perf_counter() >= self._next_s:
            self.draw()

    def draw(self, *_: Any) -> None:
        """Draw now; also a signal's handler."""
        if self._drawing:
            return
        self._drawing, begin_s = True, time.perf_counter()
        try:
            self._live.update(LiveView(self._run.read()), refresh=True)
        finally:
            self._drawing, now_s = False, time.perf_counter()
            self._next_s = now_s + min(max(1 / MOST_PER_S, (now_s - begin_s) / SHARE), LONGEST_S)


@contextmanager
def _screen(run: Watched, to: Console) -> Iterator[_Screen]:
    """The alternate screen, drawn once at the beginning, at each new size of the terminal, and at the end."""
    live = Live(
        console=to,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    )
    screen = _Screen(run, live)
    resized = getattr(signal, "SIGWINCH", None)  # Windows has none
    try:
        live.start()
        before = signal.signal(resized, screen.draw) if resized is not None else None
        try:
            screen.draw()
            yield screen
            screen.draw()
        finally:
            if resized is not None:
                signal.signal(resized, before)
    finally:
        with uninterrupted():
            live.stop()


@contextmanager
def _errors_afterwards() -> Iterator[None]:
    """What anybody writes to standard error meanwhile comes after, where that would go across the screen."""
    if not sys.stderr.isatty():
        yield
        return
    place = sys.stderr.fileno()
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        own = os.dup(place)
        os.dup2(kept.fileno(), place)
        try:
            yield
        finally:
            with uninterrupted():
                sys.stderr.flush()
                os.dup2(own, place)
                os.close(own)
                kept.seek(0)
                sys.stderr.write(kept.read().decode(errors="replace"))
                sys.stderr.flush()
