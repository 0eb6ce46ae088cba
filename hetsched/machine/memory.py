"""Sizes of host memory and of the CPU's caches, from the system."""

from __future__ import annotations

import os
import re
from pathlib import Path

UNKNOWN_CACHE_BYTES = 64 << 20


def cache_bytes() -> int:
    """Size of the CPU's last-level cache; a guess of 64 MiB where the system does not say."""
    paths = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((_parse(path.read_text(encoding="utf-8")) for path in paths), default=UNKNOWN_CACHE_BYTES)


def free_bytes() -> int:
    """Host memory that can be used without swapping."""
    info = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(encoding="utf-8"), re.M) if info.exists() else None
    return int(found[1]) * 1024 if found else total_bytes() // 2


def total_bytes() -> int:
    """Host memory."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 << 30


def _parse(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)\s*", text)
    return int(found[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[found[2]] if found else 0
