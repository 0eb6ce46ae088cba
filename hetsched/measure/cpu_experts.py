"""Experts in memory as the CPU lane computes them, plain or packed: what a profile of the CPU measures.

Shapes: T tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F

from ..cpu_kernels import Choice, ChosenKernel, KernelTiming, choice_in, choose, kernel_names
from ..cpu_kernels.packed.kernels import ALL, PackedKernel
from ..cpu_kernels.packed_ways import PACKED, UNPACK
from ..geometry import formats_named
from ..machine.profile import ExpertShape, HardwareProfile
from .calls import EXPERTS, Calls, fit_calls, measure_calls
from .cpu_kernels import CHOICE_TOKENS, choose_kernels
from .dense import Linear
from .experts import DTYPES, ExpertPool
from .format_kernels import Call, PackedPool, Way, packed_call, unpacked_call
from .timing import time_calls, time_together

CALL_WIDTH = 256  # of experts too small to take time: a block of any format


class CpuExperts(Protocol):
    """`kernel`: the kernels in use by token count, as a profile records them, and `reason` why.

    `dtype`: of activations, and of the rest of a layer, whose products are `linear`.
    """

    shape: ExpertShape
    dtype: torch.dtype
    kernel: str
    reason: str
    linear: Linear

    @property
    def from_tokens(self) -> Sequence[int]:
        """Tokens from which each kernel is in use."""
        ...

    def call(self, tokens: int) -> Call:
        """Computes one expert on so many tokens, another one for every number."""
        ...

    def calls(self, budget_s: float) -> Calls:
        """What a call takes once and each expert in it, in about `budget_s`."""
        ...


def cpu_experts(shape: ExpertShape, budget_s: float, profile: HardwareProfile | None = None) -> CpuExperts:
    """Experts of this shape, with the kernels that the profile records, else the fastest lossless ones by measurement.

    Raises InputError for formats that cannot store them. `shape.dtype` must be runnable (see `runnable_shape`).
    """
    if kernel_names(shape.dtype):
        pool = ExpertPool(shape, DTYPES[shape.dtype])
        recorded = choice_in(profile, shape.dtype) if profile else None
        return _Plain(shape, pool, recorded or choose_kernels(shape, budget_s, pool=pool))
    return _Packed(shape, budget_s, profile)


class _Plain:
    """Weights in torch's own numbers."""

    def __init__(self, shape: ExpertShape, pool: ExpertPool, choice: Choice) -> None:
        self.shape, self.dtype = shape, DTYPES[shape.dtype]
        self._pool, self._chosen = pool, ChosenKernel(choice)
        self.kernel, self.reason, self.from_tokens = choice.spec, choice.reason, choice.from_tokens
        self.linear: Linear = self._chosen.linear

    def call(self, tokens: int) -> Call:
        """See CpuExperts."""
        hidden_TH = torch.randn(tokens, self.shape.hidden).to(self.dtype)
        return lambda number: self._chosen.swiglu(hidden_TH, self._pool.at(number, self._chosen))

    def calls(self, budget_s: float) -> Calls:
        """See CpuExperts."""
        return measure_calls(self._chosen, time_calls, self.dtype, budget_s)


class _Packed:
    """Weights in formats, read as they are stored."""

    dtype = torch.bfloat16
    linear: Linear = staticmethod(F.linear)

    def __init__(self, shape: ExpertShape, budget_s: float, profile: HardwareProfile | None) -> None:
        named = formats_named(shape.dtype)
        assert named is not None, "a width alone is no format"
        inner, outer = named
        self.shape, self._pool = shape, PackedPool(inner, shape, outer)
        self._ways = packed_ways(self._pool)
        recorded = _recorded(profile, shape.dtype, self._ways) if profile else None
        choice = recorded or self._choose(budget_s)
        self._names, self.from_tokens, self.reason = choice
        self.kernel = "+".join(f"{name}@{n}" for name, n in zip(self._names, self.from_tokens, strict=True))

    def call(self, tokens: int) -> Call:
        """See CpuExperts."""
        name = next(name for name, n in reversed(list(zip(self._names, self.from_tokens, strict=True))) if n <= tokens)
        return self._ways[name](self._pool, self._drawn(tokens), 1)

    def calls(self, budget_s: float) -> Calls:
        """See CpuExperts: experts of one block, one token each, 1, 2, 4 and 8 in one call."""
        small = ExpertShape(CALL_WIDTH, CALL_WIDTH, self.shape.dtype)
        inner, _, outer = self._pool.formats
        pool, way = PackedPool(inner, small, outer, count=EXPERTS[-1]), self._ways[self._names[0]]
        timed = [way(pool, torch.ones(1, CALL_WIDTH, dtype=self.dtype), count) for count in EXPERTS]
        return fit_calls([time_calls(call, budget_s / len(EXPERTS)).median_s for call in timed])

    def _drawn(self, tokens: int) -> torch.Tensor:
        return torch.randn(tokens, self.shape.hidden).to(self.dtype)

    def _choose(self, budget_s: float) -> tuple[Sequence[str], Sequence[int], str]:
        if len(self._ways) == 1:
            (name,) = self._ways
            return (name,), (1,), f"the only way to compute with {self.shape.dtype}"
        timings = []
        for count in CHOICE_TOKENS:
            calls = [way(self._pool, self._drawn(count), 1) for way in self._ways.values()]
            found = time_together(calls, budget_s / len(CHOICE_TOKENS))
            timings += [KernelTiming(name, count, t.median_s) for name, t in zip(self._ways, found, strict=True)]
        choice = choose(timings, [cast("Any", _Named(name)) for name in self._ways])
        return [kernel.name for kernel in choice.kernels], choice.from_tokens, choice.reason


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def packed_ways(pool: PackedPool) -> dict[str, Way]:
    """The lossless ways to compute with a pool's formats by their names in profiles, the one for few tokens first."""
    if not pool.is_served:
        return {UNPACK.name: unpacked_call}
    packed, unpacking = (partial(packed_call, PackedKernel(few=few)) for few in (ALL, 0))
    return {PACKED.name: packed, UNPACK.name: unpacking}


def _recorded(
    profile: HardwareProfile, dtype: str, known: dict[str, Way]
) -> tuple[Sequence[str], Sequence[int], str] | None:
    """The kernels that a profile records for this format, where all of them are known here."""
    for table in profile.cpu.tables:
        pairs = [part.partition("@")[::2] for part in table.kernel.split("+")]
        if table.shape.dtype == dtype and all(name in known and count.isdigit() for name, count in pairs):
            reason = f"as measured in the profile {profile.name} of {profile.date}"
            return [name for name, _ in pairs], [int(count) for _, count in pairs], reason
    return None
