"""Whether a model fits into host memory, found out before anything is allocated."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .memory import free_bytes
from .sizes import show_bytes

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
