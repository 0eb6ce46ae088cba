"""Text for terminals and pipes that cannot take all of Unicode: a plain sign for each of ours, instead of an error."""

from __future__ import annotations

import codecs
import io
import sys

NAME = "hetsched-plain"
# One sign for one, so that tables stay straight; only ± is not.
PLAIN = {
    **dict(
        zip(
            "µ·×–—…─│▒░█±≥≤→",
            ["u", "-", "x", "-", "-", "...", "-", "|", ":", ".", "#", "+/-", ">", "<", ">"],
            strict=True,
        )
    ),
    **dict(zip("▁▂▃▄▅▆▇", "1234567", strict=True)),
    **dict(zip("▏▎▍▌▋▊▉", "...####", strict=True)),
}


def make_streams_safe() -> None:
    """Let standard output and standard error replace what their encoding lacks."""
    codecs.register_error(NAME, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NAME)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is no text: as it was
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return PLAIN.get(character, "?"), error.start + 1
