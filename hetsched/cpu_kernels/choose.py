"""Choice of CPU kernels by measurement: the fastest lossless one for each range of token counts."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from ..errors import InputError, UnknownNameError, known_as
from ..machine.profile import HardwareProfile
from .base import ExpertKernel, SwigluWeights
from .lossy_kernels import Int4, Int8
from .numba_kernels import FusedBf16
from .packed_ways import WAYS
from .torch_kernels import TorchLinear, Upcast

CLEARLY = 0.97  # a later, more complex kernel must take less than this share of the incumbent's time

_MAKERS: dict[str, tuple[str, Callable[[], ExpertKernel]]] = {
    "torch-fp32": ("fp32", lambda: TorchLinear(torch.float32)),
    "torch-bf16": ("bf16", lambda: TorchLinear(torch.bfloat16)),
    "torch-fp16": ("fp16", lambda: TorchLinear(torch.float16)),
    "upcast": ("bf16 fp16", Upcast),
    "fused-bf16": ("bf16", FusedBf16),
}


_LOSSY: dict[str, Callable[[], ExpertKernel]] = {"int8": Int8, "int4": Int4}


class KernelTiming(NamedTuple):
    """Median seconds of one kernel on `tokens` tokens, fresh weights on every call."""

    kernel: str
    tokens: int
    median_s: float


class Choice(NamedTuple):
    """The kernels in use by rising token count: `kernels[i]` from `from_tokens[i]` tokens on; and why."""

    kernels: tuple[ExpertKernel, ...]
    from_tokens: tuple[int, ...]
    reason: str
    timings: tuple[KernelTiming, ...] = ()

    @property
    def spec(self) -> str:
        """The choice as text that `parse_choice` reads: fused-bf16@1+upcast@16."""
        return "+".join(f"{k.name}@{n}" for k, n in zip(self.kernels, self.from_tokens, strict=True))

    @property
    def lossless(self) -> bool:
        """Whether all of them work on weights and activations as they are."""
        return all(kernel.lossless for kernel in self.kernels)

    def at(self, tokens: int) -> ExpertKernel:
        """The kernel for a number of tokens."""
        return self.kernels[max(bisect_right(self.from_tokens, tokens) - 1, 0)]


def kernel_names(dtype: str) -> list[str]:
    """Lossless kernels for weights of a dtype; empty where there is none."""
    return [name for name, (dtypes, _) in _MAKERS.items() if dtype in dtypes.split()]


def make_kernels(dtype: str) -> list[ExpertKernel]:
    """The lossless kernels for a dtype, simplest first.

    Raises InputError for a dtype without any.
    """
    if not kernel_names(dtype):
        raise InputError(f"no CPU kernel computes {dtype} weights; choose fp32, bf16 or fp16")
    return [_MAKERS[name][1]() for name in kernel_names(dtype)]


def lossy_kernels() -> list[ExpertKernel]:
    """The quantised kernels; never part of a choice, only taken when asked for by name."""
    return [make() for make in _LOSSY.values()]


def choose(timings: Sequence[KernelTiming], kernels: Sequence[ExpertKernel]) -> Choice:
    """The fastest kernel at each measured count, neighbours with the same winner merged.

    Kernels come simplest first; a later one wins only when it is clearly faster.
    """
    by_name = {kernel.name: kernel for kernel in kernels}
    winners: list[tuple[int, KernelTiming]] = []
    for tokens in sorted({row.tokens for row in timings}):
        winner = _winner([row for row in timings if row.tokens == tokens], [kernel.name for kernel in kernels])
        if not winners or winners[-1][1].kernel != winner.kernel:
            winners.append((tokens, winner))
    reason = "; ".join(f"from {n} tokens {row.kernel}, {_against(row, timings)}" for n, row in winners)
    return Choice(
        tuple(by_name[row.kernel] for _, row in winners), tuple(n for n, _ in winners), reason, tuple(timings)
    )


def _winner(rows: Sequence[KernelTiming], order: Sequence[str]) -> KernelTiming:
    ranked = sorted(rows, key=lambda row: order.index(row.kernel))
    best = ranked[0]
    for row in ranked[1:]:
        if row.median_s < CLEARLY * best.median_s:
            best = row
    return best


def _against(winner: KernelTiming, timings: Iterable[KernelTiming]) -> str:
    others = [row for row in timings if row.tokens == winner.tokens and row.kernel != winner.kernel]
    shown = ", ".join(f"{row.kernel} {row.median_s * 1e3:.2f} ms" for row in others)
    return f"{winner.median_s * 1e3:.2f} ms" + (f" against {shown}" if shown else "")


class ChosenKernel:
    """The kernels of a choice as one: each call goes to the one for its number of tokens."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.lossless = choice.lossless
        self.name = choice.spec
        self.weight_bytes = choice.kernels[0].weight_bytes

    def pack(self, weights: SwigluWeights) -> dict[str, Any]:
        """The weights packed for each kernel; views of the same memory."""
        return {kernel.name: kernel.pack(weights) for kernel in self.choice.kernels}

    def swiglu(self, hidden_TH: torch.Tensor, packed: dict[str, Any]) -> torch.Tensor:
        """down(silu(gate(x)) * up(x)): [T, H]."""
        kernel = self.choice.at(hidden_TH.shape[0])
        return kernel.swiglu(hidden_TH, packed[kernel.name])

    def linear(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x times the transposed weights: [T, N]."""
        return self.choice.at(input_TK.shape[0]).linear(input_TK, weight_NK)


def parse_choice(spec: str, dtype: str, packed: bool = False) -> Choice:
    """The choice that a spec names: fused-bf16@1+upcast@16 as in a profile, or one kernel's name for every count.

    `packed`: the weights have to be unpacked to be numbers. Raises UnknownNameError, which lists the kernels.
    """
    named = _named(spec, f"{dtype} weights", list(WAYS) if packed else kernel_names(dtype))
    kernels = tuple(WAYS[name] if packed else _MAKERS[name][1]() for name, _ in named)
    return Choice(kernels, tuple(from_tokens for _, from_tokens in named), f"given as {spec}")


def check_choice(spec: str, dtypes: Sequence[str]) -> None:
    """Raise UnknownNameError where a spec names what is no kernel for weights of these dtypes, packed or not."""
    known = dict.fromkeys(name for dtype in dtypes for name in kernel_names(dtype))
    _named(spec, f"{' or '.join(dtypes)} weights", [*known, *WAYS])


def _named(spec: str, weights: str, known: Sequence[str]) -> list[tuple[str, int]]:
    """The kernels that a spec names, each with the count it serves from; no kernel is made."""
    parts = [part.partition("@") for part in spec.split("+")]
    pairs = [(known_as(name, known), count) for name, _, count in parts]
    for name, count in pairs:
        if name not in known:
            raise UnknownNameError(f"CPU kernel for {weights}", name, known)
        if count and not re.fullmatch(r"[0-9]{1,9}", count):
            raise InputError(f"{spec!r} is no choice of kernels; write NAME or NAME@TOKENS+NAME@TOKENS")
    return [(name, int(count or 1)) for name, count in pairs]


def choice_in(profile: HardwareProfile, dtype: str, packed: bool = False) -> Choice | None:
    """The choice that a measured profile records for this dtype; None when it records none that can run here."""
    for table in profile.cpu.tables:
        if table.shape.dtype == dtype and table.kernel:
            try:
                choice = parse_choice(table.kernel, dtype, packed)
            except InputError:  # a kernel that this version does not know: measured anew
                continue
            return choice._replace(reason=f"as measured in the profile {profile.name} of {profile.date}")
    return None
