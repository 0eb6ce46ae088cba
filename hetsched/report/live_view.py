"""The live screen of a run: text, speed, lanes, slots, predicted beside measured, and what the guard did last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.text import Text

from hetsched.machine.sizes import show_bytes
from hetsched.report.compare_view import bar
from hetsched.report.live_reading import LiveReading
from hetsched.report.slots_map import SlotsMap
from hetsched.report.tables import Column, Sheet, figures
from hetsched.shadow.watchdog import Move

SMALLEST = 80, 24  # columns and rows below which only text and speed are shown
LEFT = 40  # columns of the speed, lanes and guard panels
TEXT, SPEED, LANES, PREDICTED = 6, 5, 5, 8  # rows with their borders
BORDERS = 4  # columns of a panel that are not its contents
CLASSES = {"gpu": "GPU", "cpu": "CPU", "copy": "copies", "dense": "dense", "layers": "layers"}


class LiveView:
    """All of a screen, in whatever size it has when it is drawn."""

    def __init__(self, reading: LiveReading) -> None:
        self._reading = reading

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        if width < SMALLEST[0] or height < SMALLEST[1]:
            lines = Text(live_line(self._reading)).wrap(console, width, overflow="fold")
            yield Text("\n").join(lines[:height])
            if width > BORDERS and height - len(lines) >= 3:
                yield _text_panel(self._reading, width, height - len(lines))
            return
        yield _screen(self._reading, width, height)


def live_line(reading: LiveReading) -> str:
    """The same in one line, for small terminals and for pipes."""
    busy = ", ".join(f"{lane.upper()} {share:.0%}" for lane, share in reading.lately.busy.items())
    speed = f"{reading.tokens_per_s:.1f} tokens/s ({reading.kind})" if reading.tokens_per_s else "reading the prompt"
    return f"{reading.tokens} of {reading.most} tokens: {speed}, hit rate {reading.stats['hit_rate']:.0%}, busy {busy}"


def _screen(reading: LiveReading, width: int, height: int) -> Layout:
    text = TEXT + (height - SMALLEST[1]) // 8
    speed = SPEED + (reading.speculation is not None)
    left, right = Layout(name="left", size=LEFT), Layout(name="right")
    left.split_column(
        Layout(_panel(_speed(reading), "speed"), size=speed),
        Layout(_panel(_lanes(reading), "lanes, busy lately"), size=LANES),
        Layout(_panel(_guard(reading), "guard")),
    )
    right.split_column(
        Layout(_panel(SlotsMap(reading.state_LE, reading.asked_LE), _slots_title(reading))),
        Layout(_panel(_predicted(reading), "predicted and measured"), size=PREDICTED),
    )
    below = Layout()
    below.split_row(left, right)
    whole = Layout()
    whole.split_column(Layout(_text_panel(reading, width, text), size=text), below)
    return whole


def _panel(inside: RenderableType, title: str) -> Panel:
    return Panel(inside, title=Text(title), title_align="left", border_style="cyan")


def _text_panel(reading: LiveReading, width: int, height: int) -> Panel:
    """The end of the text, below as much of the prompt as there is room for."""
    said = Text.assemble((f"{printable(reading.prompt)}\n", "dim"), printable(reading.text))
    lines = said.wrap(Console(width=width), width - BORDERS, overflow="fold", tab_size=4)
    return Panel(
        Text("\n").join(lines[-(height - 2) :]),
        title=_title(reading, width - BORDERS - 2),
        title_align="left",
        subtitle=Text(_fitting(_so_far(reading), width - BORDERS - 2)),
        subtitle_align="right",
        border_style="cyan",
        height=height,
    )


def _title(reading: LiveReading, width: int) -> Text:
    """What runs where: as much as there is room for, and in any case that it is lossy where it is."""
    label = "" if reading.stats["lossless"] else "LOSSY "
    return Text.assemble((label, "bold red"), _fitting(reading.title, width - len(label)))


def _so_far(reading: LiveReading) -> tuple[str, ...]:
    """How far the text is, and its speed on the wall, which no emulation changes."""
    by_the_wall = reading.tokens / reading.wall_s if reading.wall_s else 0.0
    return f"{reading.tokens} of {reading.most} tokens", f"{by_the_wall:.2f} a wall second", "Ctrl-C ends it"


def printable(text: str) -> str:
    """Text whose signs move no cursor: whatever is neither printed nor the end of a line is a blank."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)


def _fitting(parts: Sequence[str], width: int) -> str:
    """As many of the parts as there is room for, the first in any case, or its end."""
    for count in range(len(parts), 0, -1):
        text = ", ".join(parts[:count])
        if Text(text).cell_len <= width:
            return text
    return parts[0][-width:] if width > 0 else ""


def _speed(reading: LiveReading) -> Sheet:
    stats, lately = reading.stats, reading.lately
    table = Sheet("", Column("", prose=True))
    speed = f"{_three(reading.tokens_per_s)} {reading.kind}" if reading.tokens_per_s else "reading the prompt"
    if lately.tokens_per_s is not None and reading.speculation is None:  # a step's tokens may be drafts
        speed += f", {_three(lately.tokens_per_s)} lately"
    table.add("tokens/s", Text(speed, style="bold"))
    now = "" if lately.hit_rate is None else f", {lately.hit_rate:.0%} lately"
    table.add("hit rate", f"{stats['hit_rate']:.0%}{now}")
    table.add("moved", f"{show_bytes(stats['bytes_per_token'])} a token")
    if (drafts := reading.speculation) is not None:
        table.add("drafts", f"{drafts['acceptance']:.0%} of {drafts['drafted']} kept" if drafts["drafted"] else "none")
    return table


def _three(figure: float) -> str:
    """A speed by some three digits, or all that stand before the point."""
    return f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"


def _lanes(reading: LiveReading) -> Sheet:
    table = Sheet("", "", Column("", right=True))
    for lane, share in reading.lately.busy.items():
        table.add(lane.upper(), Text(bar(share, 24), style="green"), f"{share:4.0%}")
    return table


def _predicted(reading: LiveReading) -> RenderableType:
    """Milliseconds a token by class, and the ratio of the two."""
    predictions: dict[str, Any] = reading.stats["predictions"]
    per_token = 1e3 / max(reading.stats["tokens"], 1)
    table = Sheet("ms/token", *figures("predicted", "measured", "ratio"))
    for name, word in CLASSES.items():
        if found := predictions.get(name):
            seconds = [f"{per_token * found[key]:.2f}" for key in ("predicted_s", "measured_s")]
            off = abs(found["ratio"] - 1) > 0.25
            table.add(word, *seconds, f"{found['ratio']:.2f}", style="yellow" if off else "")
    return table


def _guard(reading: LiveReading) -> RenderableType:
    """The last move of the guard, and what the run has survived."""
    stats = reading.stats
    lines = [_moved(Move(**stats["moves"][-1]))] if stats["moves"] else []
    if faults := sum(stats["faults"].values()):
        lines.append(f"{faults} faults survived")
    if stats["resizes"]:
        lines.append(f"slots changed {stats['resizes']} times")
    return Text("\n".join(lines or ["nothing to report"]), overflow="fold")


def _moved(move: Move) -> str:
    seconds = f"{1e3 * move.measured_s:.2f} ms a step, {1e3 * move.expected_s:.2f} expected"
    return f"step {move.step}: {move.to} in place of {move.left} ({move.why}): {seconds}"


def _slots_title(reading: LiveReading) -> str:
    layers, experts = reading.asked_LE.shape
    return f"{reading.stats['slots']} slots, {layers} layers x {experts}"
