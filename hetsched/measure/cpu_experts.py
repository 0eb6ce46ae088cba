"""Experts in memory as the CPU lane computes them, plain or packed: what a profile of the CPU measures.

Shapes: T tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ..cpu_kernels import Choice, ChosenKernel, choice_in, kernel_names
from ..cpu_kernels.packed.kernels import ALL, PackedKernel
from ..cpu_kernels.packed_ways import LOSSLESS_WAYS, PACKED, UNPACK
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
        recorded = choice_in(profile, shape.dtype, packed=True) if profile else None
        known = recorded is not None and all(way.name in self._ways for way in recorded.kernels)
        self._choice = recorded if recorded is not None and known else self._choose(budget_s)
        self.kernel, self.reason, self.from_tokens = self._choice.spec, self._choice.reason, self._choice.from_tokens

    def call(self, tokens: int) -> Call:
        """See CpuExperts."""
        return self._ways[self._choice.at(tokens).name](self._pool, self._drawn(tokens), 1)

    def calls(self, budget_s: float) -> Calls:
        """See CpuExperts: experts of one block, one token each, 1, 2, 4 and 8 in one call."""
        small = ExpertShape(CALL_WIDTH, CALL_WIDTH, self.shape.dtype)
        inner, _, outer = self._pool.formats
        pool, way = PackedPool(inner, small, outer, count=EXPERTS[-1]), self._ways[self._choice.at(1).name]
        timed = [way(pool, torch.ones(1, CALL_WIDTH, dtype=self.dtype), count) for count in EXPERTS]
        return fit_calls([time_calls(call, budget_s / len(EXPERTS)).median_s for call in timed])

    def _drawn(self, tokens: int) -> torch.Tensor:
        return torch.randn(tokens, self.shape.hidden).to(self.dtype)

    def _choose(self, budget_s: float) -> Choice:
        if len(self._ways) == 1:
            return Choice((UNPACK,), (1,), f"no packed kernel reads {self.shape.dtype}")
        packed_s, unpack_s = [], []
        for count in CHOICE_TOKENS:
            calls = [self._ways[way.name](self._pool, self._drawn(count), 1) for way in (PACKED, UNPACK)]
            packed, unpack = time_together(calls, budget_s / len(CHOICE_TOKENS))
            packed_s.append(packed.median_s)
            unpack_s.append(unpack.median_s)
        return one_change(CHOICE_TOKENS, packed_s, unpack_s)


def one_change(tokens: Sequence[int], packed_s: Sequence[float], unpack_s: Sequence[float]) -> Choice:
    """In registers for few tokens, unpacked before the products from some count on, as the engine does: the count with
    the least product of seconds, so that a busy moment at one of them decides nothing."""
    gain = np.log(np.asarray(packed_s) / np.asarray(unpack_s))  # of unpacking
    lost_by_change = [float(gain[:at].sum()) for at in range(len(tokens) + 1)]
    at = len(tokens) - int(np.argmin(lost_by_change[::-1]))
    shown = zip(tokens, packed_s, unpack_s, strict=True)
    reason = "; ".join(f"{n} tokens packed {a * 1e3:.2f} ms, unpack {b * 1e3:.2f} ms" for n, a, b in shown)
    if at == len(tokens):
        return Choice((PACKED,), (1,), reason)
    return Choice((UNPACK,), (1,), reason) if at == 0 else Choice((PACKED, UNPACK), (1, tokens[at]), reason)


def packed_ways(pool: PackedPool) -> dict[str, Way]:
    """The lossless ways to compute with a pool's formats, by the names under which they are chosen."""
    if not pool.is_served:
        return {UNPACK.name: unpacked_call}
    return {way.name: partial(packed_call, PackedKernel(few=ALL if way.in_registers else 0)) for way in LOSSLESS_WAYS}
