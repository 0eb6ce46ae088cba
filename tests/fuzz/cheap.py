"""What makes a fork of a process with torch in it cheap: of half a gigabyte every page is entered in a table anew."""

from __future__ import annotations

import ctypes
import functools
import gc
from pathlib import Path

from hetsched import cli

from . import options

HUGE_BYTES, COLLAPSE = 2 << 20, 25  # MADV_COLLAPSE of Linux 6.1


def make_cheap() -> None:
    """Do once what every case would do anew, let no child's collector look through what was here, and few pages be."""
    cli._parser = functools.cache(cli._parser)
    options.tuned()
    gc.collect()
    gc.freeze()
    _in_huge_pages()


def _in_huge_pages() -> None:
    """This process' memory by pages of two megabytes, of which a fork copies fewer entries, where the system can."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends, rights, _, _, _, *name = line.split()
        if rights.startswith("rw") and name in ([], ["[heap]"]):
            begin, end = (int(place, 16) for place in ends.split("-"))
            first = -(-begin // HUGE_BYTES) * HUGE_BYTES
            if end - first >= HUGE_BYTES:
                madvise(first, (end - first) // HUGE_BYTES * HUGE_BYTES, COLLAPSE)
