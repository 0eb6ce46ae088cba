"""What is on this machine for hetsched to use: each item found or not, what its lack costs, and what adds it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..cache import cache_folder, cache_place
from ..errors import InputError
from ..machine.fingerprint import core_count, cpu_name, gpu_name_and_driver
from ..machine.memory import free_bytes, total_bytes
from ..machine.store import stored
from ..machine.units import human
from ..plugins import installed

INSTRUCTIONS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Item:
    """One line of the doctor's report. `ok` None: a fact that is neither good nor bad.

    `cost`: what goes without it. `fix`: the exact command that adds it. `needed`: the main job cannot run without.
    """

    name: str
    found: str
    ok: bool | None = None
    cost: str = ""
    fix: str = ""
    needed: bool = False


def inventory() -> list[Item]:
    """Every item, in the order in which a reader looks for trouble."""
    makers: tuple[Callable[[], list[Item]], ...] = (_python, _gpu, _packages, _solvers, _cpu, _memory, _cached)
    return [item for maker in makers for item in maker()]


def is_healthy(items: list[Item]) -> bool:
    """Whether the main job, scheduling a model on this machine, can run."""
    return all(item.ok is not False for item in items if item.needed)


def _python() -> list[Item]:
    wanted = (3, 10)
    return [Item("Python", platform.python_version(), sys.version_info >= wanted, "needs 3.10", "", needed=True)]


def _package(name: str, cost: str, fix: str = "", needed: bool = False) -> Item:
    try:
        return Item(name, version(name), True, needed=needed)
    except PackageNotFoundError:
        return Item(name, "absent", False, cost, fix or f"pip install {name}", needed)


def _packages() -> list[Item]:
    return [
        _package("torch", "no model can run", "pip install torch", needed=True),
        _package("transformers", "no model can be loaded", "pip install 'transformers>=5.23,<6'", needed=True),
        _package("numba", "no solver and no policy can run", needed=True),
        _package("matplotlib", "no plots"),
    ]


def _gpu() -> list[Item]:
    name, driver = gpu_name_and_driver() if importlib.util.find_spec("torch") else ("none", "none")
    if name == "none":
        cost = "all experts run on the CPU; machines of the gallery can be emulated"
        return [Item("GPU", "none that torch can use", False, cost, _gpu_fix()), _cupy(False)]
    return [Item("GPU", f"{name}, driver {driver}", True), _cupy(True)]


def _gpu_fix() -> str:
    if not Path("/dev/nvidia0").exists():
        return ""
    return "pip install torch --index-url https://download.pytorch.org/whl/cu128"


def _cupy(has_gpu: bool) -> Item:
    for name in ("cupy-cuda13x", "cupy-cuda12x"):
        item = _package(name, "")
        if item.ok:
            return Item("CuPy", f"{name} {item.found}", True)
    if not has_gpu:
        return Item("CuPy", "absent, of no use without a GPU")
    return Item("CuPy", "absent", False, "the cuda accelerator cannot run", "pip install 'hetsched[cuda13]'")


def _solvers() -> list[Item]:
    names = ", ".join(sorted(installed("hetsched.solvers"))) or "none"
    own = Item("dispatch solvers", names, names != "none", "no dispatch", "pip install hetsched", needed=True)
    lack = "no CP-SAT and no HiGHS: placement by sorting only"
    return [own, _package("ortools", lack), _package("pulp", "no CBC solver, one reference fewer")]


def _cpu() -> list[Item]:
    threads = {
        key: os.environ[key] for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS") if key in os.environ
    }
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1
    return [
        Item("CPU", f"{cpu_name()}, {core_count()} cores"),
        Item("instruction sets", ", ".join(_instructions()) or "unknown"),
        _threads(threads),
        Item(
            "NUMA nodes",
            str(nodes),
            None if nodes == 1 else False,
            "weights on another node are read slower",
            "" if nodes == 1 else "numactl --cpunodebind=0 --membind=0 hetsched run ...",
        ),
    ]


def _threads(settings: dict[str, str]) -> Item:
    cores = core_count()
    shown = ", ".join(f"{key}={value}" for key, value in settings.items()) or f"default, one a core ({cores})"
    above = [key for key, value in settings.items() if value.isdigit() and int(value) > cores]
    if above:
        return Item("threads", shown, False, "more threads than cores wait for each other", f"unset {' '.join(above)}")
    return Item("threads", shown)


def _instructions() -> list[str]:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return [name for name in INSTRUCTIONS if name in present]


def _memory() -> list[Item]:
    facts = Item("host memory", f"{human(total_bytes(), 'B')}, {human(free_bytes(), 'B')} free")
    return [facts, _pinned_limit()]


def _pinned_limit() -> Item:
    """CUDA pins through its driver, which the locked-memory limit does not bind; others it does."""
    if sys.platform == "win32":
        return Item("pinned-memory limit", "set by the driver")
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    shown = "unlimited" if limit == resource.RLIM_INFINITY else human(limit, "B")
    return Item("pinned-memory limit", f"{shown} by ulimit -l; CUDA's own pinning is not bound by it")


def _cached() -> list[Item]:
    found = stored()
    profiles, models = found.profiles, cache_place("models")
    newest = f", newest {profiles[0][1].date}: {profiles[0][0]}" if profiles else ""
    lack = "predictions rest on rules of thumb"
    names = [path.name for path in sorted(models.iterdir())] if models.is_dir() else []
    return [
        _cache_item(),
        Item("profiles", f"{len(profiles)}{newest}", bool(profiles), lack, "" if profiles else "hetsched profile"),
        *(
            Item("damaged profile", str(error), False, "it is skipped", f"rm {shlex.quote(str(path))}")
            for path, error in found.damaged.items()
        ),
        Item("models in the cache", ", ".join(names) or "none"),
    ]


def _cache_item() -> Item:
    try:
        return Item("cache folder", str(cache_folder()), True)
    except InputError as error:
        cost = "no profile is kept, no demo model is built"
        return Item("cache folder", str(error), False, cost, "export HETSCHED_CACHE=/a/folder/you/can/write")
