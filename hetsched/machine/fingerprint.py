"""Fingerprint: what makes a measured profile this machine's and this model's, so that it is found again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..geometry import MoEGeometry

MACHINE_KEYS = ("cpu", "cores", "gpu", "driver", "torch", "threads")
GEOMETRY_KEYS = ("dtype", "hidden", "ffn", "matrices")


def fingerprint(geometry: MoEGeometry, threads: int | None = None, device: str = "auto") -> dict[str, str | int]:
    """CPU model, cores, GPU and driver, torch version, thread count, dtype and geometry.

    `threads`: compute threads, default torch's; left out while torch is not loaded, which alone knows. It is part of
    the fingerprint because a profile of 2 threads says nothing about 16. `device` "cpu": as on a machine without a GPU.
    """
    count = threads or _torch_threads()
    gpu, driver = ("none", "none") if device == "cpu" else gpu_name_and_driver()
    return {
        "cpu": cpu_name(),
        "cores": core_count(),
        "gpu": gpu,
        "driver": driver,
        "torch": torch_version(),
        **({"threads": count} if count else {}),
        "dtype": geometry.dtype,
        "hidden": geometry.hidden,
        "ffn": geometry.ffn,
        "matrices": geometry.matrices,
    }


def host_fingerprint() -> dict[str, str | int]:
    """What the engine's own Python depends on here: CPU, cores, torch, and this program."""
    return {"cpu": cpu_name(), "cores": core_count(), "torch": torch_version(), "tool": tool_version()}


def digest(values: Mapping[str, str | int]) -> str:
    """Twelve hexadecimal digits that stand for the fingerprint."""
    text = json.dumps(dict(sorted(values.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cpu_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def core_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def torch_version() -> str:
    """Version of the installed torch, without importing it; 'none' when there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def tool_version() -> str:
    """Name and version of this program, for the files it writes."""
    try:
        return f"hetsched {version('hetsched')}"
    except PackageNotFoundError:
        return "hetsched, not installed"


def _torch_threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else 0


def gpu_name_and_driver() -> tuple[str, str]:
    """Name of the first accelerator and its driver's version; ('none', 'none') without one that torch can use.

    torch, which takes a second to import, is asked only where the system could have an accelerator.
    """
    if sys.platform == "linux" and not any(
        Path(p).exists() for p in ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/kfd")
    ):
        return "none", "none"
    import torch

    if not torch.cuda.is_available():
        return "none", "none"
    return torch.cuda.get_device_name(0), _driver_version()


def gpu_memory_bytes() -> int:
    """Memory of the first accelerator, used or not. Only where gpu_name_and_driver() found one."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _driver_version() -> str:
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", path.read_text(encoding="utf-8")) if path.exists() else None
    return found[1] if found else "unknown"
