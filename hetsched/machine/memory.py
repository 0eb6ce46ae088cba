"""Sizes of host memory and of the CPU's caches, and whether a model fits, from the system; nothing is allocated."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError
from .sizes import show_bytes

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


CGROUP = Path("/sys/fs/cgroup")


def check_room(name: str, experts_bytes: int, rest_bytes: int, available_bytes: int | None = None) -> None:
    """Raise InputError, with the numbers, where experts and the rest of a model exceed what is available.

    `available_bytes`: None asks the system.
    """
    available = room_bytes() if available_bytes is None else available_bytes
    if experts_bytes + rest_bytes > available:
        raise InputError(
            f"{name} needs {show_bytes(experts_bytes + rest_bytes)} of memory (experts {show_bytes(experts_bytes)}, "
            f"the rest {show_bytes(rest_bytes)}) and {show_bytes(available)} are free; free some, choose a dtype of "
            "fewer bytes, or a smaller model"
        )


def room_bytes(cgroup: Path = CGROUP) -> int:
    """Host memory that can be used: what the system has free, and what a container's limit leaves, if there is one."""
    return min([free_bytes(), *_left_in(cgroup), *_left_in(cgroup / "memory")])


def _left_in(group: Path) -> list[int]:
    """Bytes until a control group's limit (version 2 or 1), its file cache counted as free; nothing without a limit."""
    for limit_name, used_name in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            limit = (group / limit_name).read_text(encoding="ascii").strip()
            used = int((group / used_name).read_text(encoding="ascii"))
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        if limit.isdecimal():
            statistics = dict(line.split() for line in lines)
            return [int(limit) - used + int(statistics.get("inactive_file", 0)) + int(statistics.get("active_file", 0))]
    return []
