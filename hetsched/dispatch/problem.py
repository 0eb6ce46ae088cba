"""The two integer programs, as arrays and nothing else: dispatch of one layer, placement of a window.

Shapes: N experts under decision, V victims, M layer-steps recorded, L layers, E experts, R tiers. Units: s, bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from math import inf
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..types import FloatArray, IntArray

_COLUMNS = ("gpu_s_N", "cpu_s_N", "utility_N", "copy_s_N", "ready_s_N")  # the finite ones first
_NUMBERS = ("link_free_s", "roundtrip_s", "gpu_call_s")
T = TypeVar("T")


@cache
def judging() -> ModuleType:
    """judge.py with its kernels ready. numba takes long to import: whoever judges in a hurry asks before it hurries."""
    from . import judge

    judge.well_formed(np.zeros(0), 0, 0.0, 0.0, 0.0)
    judge.judge(np.zeros(0), 0, 0.0, 0.0, 0.0, np.zeros(0, np.int8))
    return judge


class _Kept(Generic[T]):
    """functools.cached_property without the lock that it takes up to Python 3.11, half of its cost."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make = make
        self.name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, owner: Any, _: type) -> T:
        value = owner.__dict__[self.name] = self.make(owner)
        return value


class Verdict(NamedTuple):
    """What a choice comes to, recomputed: makespan and prices are infinite where it is not feasible."""

    feasible: bool
    makespan_s: float
    prices_s: float
    incumbent_s: float


class Device(IntEnum):
    """Where an active expert runs. GPU means: resident or already in flight, no new copy."""

    CPU = 0
    GPU = 1
    FETCH = 2


@dataclass(frozen=True)
class DispatchProblem:
    """Choose the device of each active expert of one layer.

    Minimise makespan(choice) + sum over fetched of (price of its victim - its own utility), MODEL.md section 3 in
    the project's words:

    * GPU lane, serial: one `gpu_call_s` from the start when anything runs there, copies arriving or not; then
      residents, experts in flight in order of arrival, and fetched ones in Johnson order, each once it is there.
    * LINK lane, serial: fetches start at `link_free_s`; each takes `copy_s_N`.
    * CPU lane, serial: one `roundtrip_s` when anything runs there (the CPU's call included), then the experts.
    * The k-th new fetch (in any order) takes the k-th cheapest victim: `victim_price_V`, ascending; a free slot is a
      victim of price 0. There are no more fetches than victims.

    `ready_s_N`: 0 for a resident expert, seconds until arrival for one in flight, inf for one that must be fetched.
    `copy_s_N`: inf where an expert cannot be fetched (does not fit a slot, or there is no link).
    `utility_N`: seconds that being resident afterwards is worth; may be zero.
    The arrays must not change once the problem is made: what is read from them is kept.
    """

    gpu_s_N: FloatArray
    cpu_s_N: FloatArray
    copy_s_N: FloatArray
    ready_s_N: FloatArray
    utility_N: FloatArray
    victim_price_V: FloatArray
    link_free_s: float = 0.0
    roundtrip_s: float = 0.0
    gpu_call_s: float = 0.0

    @property
    def size(self) -> int:
        """Number of experts under decision."""
        return len(self.gpu_s_N)

    def validate(self) -> None:
        """Raise InputError naming the first field that is out of range or of the wrong shape."""
        _ = self.packed

    @_Kept
    def packed(self) -> FloatArray:
        """All arrays, validated, end to end: gpu, cpu, utility, copy, ready [N each], victim prices [V]."""
        try:
            return self._packed()
        except InputError:
            raise
        except (AttributeError, TypeError, ValueError):
            self._refuse_types()
            raise

    def _packed(self) -> FloatArray:
        size = len(self.gpu_s_N)
        columns = (self.gpu_s_N, self.cpu_s_N, self.utility_N, self.copy_s_N, self.ready_s_N, self.victim_price_V)
        gpu, cpu, utility, copy, ready, price = columns
        if not ((size,) == gpu.shape == cpu.shape == utility.shape == copy.shape == ready.shape and price.ndim == 1):
            self._refuse_shapes()
        packed: FloatArray = np.concatenate(columns, dtype=np.float64)
        if not judging().well_formed(packed, size, *self.numbers):
            self._refuse()
        return packed

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What kernels take beside `packed`: link_free_s, roundtrip_s, gpu_call_s."""
        return float(self.link_free_s), float(self.roundtrip_s), float(self.gpu_call_s)

    def _refuse_shapes(self) -> None:
        size = len(self.gpu_s_N)
        for name in _COLUMNS:
            if (shape := getattr(self, name).shape) != (size,):
                raise InputError(f"{name} has shape {shape}, expected ({size},) like gpu_s_N")
        raise InputError(f"victim_price_V has {self.victim_price_V.ndim} dimensions, expected a vector [V]")

    def _refuse_types(self) -> None:
        for name in (*_COLUMNS, "victim_price_V"):
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "fiub":
                raise InputError(f"{name} is {type(values).__name__}, expected a NumPy vector of numbers; use frozen()")
        for name in _NUMBERS:
            if not isinstance(getattr(self, name), (int, float, np.number)):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected seconds")

    def _refuse(self) -> None:
        for name in _COLUMNS:
            values = getattr(self, name)
            if np.isnan(values).any():
                raise InputError(f"{name} holds NaN; every cost must be a number of seconds")
            if (values < 0).any():
                raise InputError(f"{name} holds a negative value ({values.min():.3g}); seconds are >= 0")
        for name in _COLUMNS[:3]:
            if np.isinf(getattr(self, name)).any():
                raise InputError(f"{name} holds an infinite value; only copy_s_N and ready_s_N may")
        if not np.isfinite(self.victim_price_V).all():
            raise InputError("victim_price_V must hold finite seconds; leave out what must not be evicted")
        if (self.victim_price_V < 0).any() or (np.diff(self.victim_price_V) < 0).any():
            raise InputError("victim_price_V must be ascending and >= 0; sort it")
        for name in _NUMBERS:
            if not 0 <= getattr(self, name) < inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must be a finite number of seconds >= 0")

    def verdict(self, choice_N: npt.NDArray[np.int8]) -> Verdict:
        """All that is to know of a choice (values of Device) at once, by the arithmetic of judge.py."""
        device_N = self._devices(choice_N)
        if device_N is None:
            return Verdict(False, inf, inf, self.incumbent_s)
        return Verdict._make(judging().judge(self.packed, self.size, *self.numbers, device_N))

    def _devices(self, choice_N: Any) -> npt.NDArray[np.int8] | None:
        """A copy of a choice that may be anything; None for what names no devices."""
        if not isinstance(choice_N, np.ndarray) or choice_N.shape != (self.size,):
            return None
        if choice_N.dtype.char == "b":
            return choice_N.copy()
        is_device = choice_N.dtype.kind in "iufb" and np.isin(choice_N, (0, 1, 2)).all()
        return choice_N.astype(np.int8) if is_device else None

    def is_feasible(self, choice_N: npt.NDArray[np.int8]) -> bool:
        """Whether a choice obeys arrival, copying and slots."""
        return self.verdict(choice_N).feasible

    def makespan_s(self, choice_N: npt.NDArray[np.int8]) -> float:
        """Seconds from the decision until the last lane ends, without contention; infinite where not feasible."""
        return self.verdict(choice_N).makespan_s

    def prices_s(self, choice_N: npt.NDArray[np.int8]) -> float:
        """Prices of the victims less the utilities of the fetched; may be negative; infinite where not feasible."""
        return self.verdict(choice_N).prices_s

    def objective_s(self, choice_N: npt.NDArray[np.int8]) -> float:
        """Makespan plus prices; lower is better, and it may be negative; infinite where not feasible."""
        verdict = self.verdict(choice_N)
        return verdict.makespan_s + verdict.prices_s

    def incumbent(self) -> npt.NDArray[np.int8]:
        """What is always possible: residents on the GPU, every miss and everything in flight on the CPU."""
        choice_N: npt.NDArray[np.int8] = (self.ready_s_N == 0).astype(np.int8)  # Device.GPU is 1, Device.CPU is 0
        return choice_N

    @_Kept
    def incumbent_s(self) -> float:
        """Objective of the incumbent."""
        return self.verdict(self.incumbent()).incumbent_s


def johnson_order(problem: DispatchProblem, fetched: IntArray) -> IntArray:
    """Order of copies that minimises the GPU lane's end for given fetches (Johnson 1954, two-machine flow shop).

    First those whose copy is shorter than their compute, by ascending copy; then the rest, by descending compute.
    """
    copy_s, gpu_s = problem.copy_s_N.tolist(), problem.gpu_s_N.tolist()

    def key(i: int) -> tuple[bool, float]:
        return (False, copy_s[i]) if copy_s[i] < gpu_s[i] else (True, -gpu_s[i])

    return np.array(sorted(np.asarray(fetched).tolist(), key=key), dtype=np.int64)


@dataclass(frozen=True)
class PlacementProblem:
    """Choose what should be resident over a window, from recorded demand (sample average).

    `tokens_ME`: tokens per expert in each recorded layer-step; `layer_M` its layer. `gpu_s_RME` float [R, M, E] and
    `cpu_s_ME` seconds for those tokens (0 where there are none); `dense_s_M` the rest of the layer on the GPU;
    `roundtrip_s_M` once when anything runs on the CPU, `gpu_call_s_M` once for each GPU on which anything runs. Tier r
    of an expert takes `bytes_RLE`, `copy_s_RLE` to fetch.
    `current_LE`: tier resident now, -1 for none. `capacity_bytes_G`: bytes for experts on each of G GPUs.
    `window_steps`: steps over which a fetch is paid off.
    """

    tokens_ME: IntArray
    layer_M: IntArray
    gpu_s_RME: FloatArray
    cpu_s_ME: FloatArray
    dense_s_M: FloatArray
    roundtrip_s_M: FloatArray
    gpu_call_s_M: FloatArray
    bytes_RLE: IntArray
    copy_s_RLE: FloatArray
    current_LE: npt.NDArray[np.int8]
    capacity_bytes_G: IntArray
    window_steps: int
    num_samples: int


def frozen(values: Any, dtype: type = float) -> npt.NDArray[Any]:
    """A read-only array, so that a solver cannot change its problem."""
    array: npt.NDArray[Any] = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
