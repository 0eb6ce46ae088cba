"""CostModel: seconds to compute or copy, for one model on one machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import ExpertShape, HardwareProfile, Processor, Source
from ..memory.context import ContextShape
from ..types import FloatArray
from .attention import attention_s
from .latency import Interpolation, dense_table, expert_table, roofline_s

OPS = ("gpu", "cpu", "copy", "dense")  # classes of operation, each corrected by one factor
ACTIVATION_BYTES = 2  # activations cross the link in 16 bits


class CostModel:
    """Seconds for one model's experts on one machine.

    A latency table of the model's own shape is interpolated; a table of another shape is scaled by the roofline
    (Williams et al. 2009: the larger of bytes over bandwidth and FLOPs over throughput); without any table the roofline
    itself serves. All arguments named n may be scalars or arrays. `recalibrate` corrects later answers.

    On a machine without a GPU, what would run there or be copied there takes forever (inf), and nothing has to travel:
    a policy may compare seconds without asking `has_gpu` first.

    A lane computes a layer's experts in one call: `gpu_call_s` or `cpu_call_s` once, if it computes any, and `gpu_s` or
    `cpu_s` for each, which is what that expert adds. With the model's `shape`, `dense_s` can hold attention over a
    context.
    """

    def __init__(self, profile: HardwareProfile, geometry: MoEGeometry, shape: ContextShape | None = None) -> None:
        self.profile = profile
        self.geometry = geometry
        self.shape = shape
        self.version = 0  # counts recalibrations
        self._expert_bytes = geometry.expert_bytes
        self._factors = dict.fromkeys(OPS, 1.0)
        self._memo: dict[str, dict[int, float]] = {name: {} for name in ("gpu", "cpu", "copy", "start", "dense")}
        self._sources: dict[str, Source] = {}
        self._cpu = self._latency("cpu", profile.cpu)
        self._gpu = None if profile.gpu is None else self._latency("gpu", profile.gpu)
        table = dense_table(self._dense_device, geometry.name)
        self._dense = Interpolation(table.tokens_P, table.median_s_P) if table else None

    @property
    def has_gpu(self) -> bool:
        """Whether there is an accelerator to schedule for."""
        return self._gpu is not None

    @property
    def sources(self) -> dict[str, Source]:
        """How the latency of each device was obtained: `scaled` for another geometry's table."""
        return dict(self._sources)

    @property
    def corrections(self) -> dict[str, float]:
        """Factor now applied to each class of operation: gpu, cpu, copy, dense."""
        return dict(self._factors)

    def gpu_call_s(self) -> float:
        """Seconds before a layer's first expert on the GPU: once if any runs there. 0 without a GPU."""
        gpu = self.profile.gpu
        return gpu.call_s * self._factors["gpu"] if gpu else 0.0

    def cpu_call_s(self) -> float:
        """Seconds of waking the CPU lane: once for each layer in which any expert runs there."""
        return self.profile.cpu.call_s * self._factors["cpu"]

    def gpu_s(self, n: npt.ArrayLike) -> FloatArray:
        """Seconds that one expert's FFN on n tokens adds to the GPU's call; 0 for n = 0, else inf without a GPU."""
        if self._gpu is None:
            never: FloatArray = np.where(np.asarray(n) > 0, np.inf, 0.0)
            return never
        return self._gpu(n) * self._factors["gpu"]

    def cpu_s(self, n: npt.ArrayLike) -> FloatArray:
        """Seconds that one expert's FFN on n tokens adds to the CPU's call, all compute threads; 0 for n = 0."""
        return self._cpu(n) * self._factors["cpu"]

    def each_gpu_s(self, tokens: Iterable[int]) -> list[float]:
        """gpu_s for each of a few experts, as plain floats; remembered, for the decision loop."""
        memo = self._memo["gpu"]
        return [memo[n] if n in memo else memo.setdefault(n, float(self.gpu_s(n))) for n in tokens]

    def each_cpu_s(self, tokens: Iterable[int]) -> list[float]:
        """cpu_s for each of a few experts, as plain floats; remembered, for the decision loop."""
        memo = self._memo["cpu"]
        return [memo[n] if n in memo else memo.setdefault(n, float(self.cpu_s(n))) for n in tokens]

    def lane_s(self, on_gpu: bool, counts: Sequence[int], at_N: Sequence[int], num_tokens: int = 0) -> float:
        """Seconds of a lane for the experts at some places of `counts`, their tokens.

        With `num_tokens`, the step's, those before its first expert as well: gpu_call_s, or cpu_start_s.
        """
        memo, total_s = self._memo["gpu" if on_gpu else "cpu"], 0.0
        if num_tokens:
            total_s = self.gpu_call_s() if on_gpu else self.cpu_start_s(num_tokens)
        for at in at_N:
            n = counts[at]
            if n not in memo:
                memo[n] = float(self.gpu_s(n) if on_gpu else self.cpu_s(n))
            total_s += memo[n]
        return total_s

    def dense_s(self, num_tokens: int, context: int = 0) -> float:
        """Seconds for the rest of one layer on `num_tokens` tokens, on the GPU where there is one.

        After `context` tokens of one sequence, where the model's `shape` is known, its attention over these is in it,
        the average of all layers; after 0 it is that of the dense part alone.
        """
        memo = self._memo["dense"]
        if num_tokens not in memo:
            memo[num_tokens] = self._one_dense_s(num_tokens) * self._factors["dense"]
        return memo[num_tokens] + (self.attention_s(num_tokens, context) if context else 0.0)

    def attention_s(self, num_tokens: int, context: int) -> float:
        """Seconds of attention of a step after `context` tokens, the average of all layers; 0 without a `shape`."""
        if self.shape is None or not self.shape.layers:
            return 0.0
        element_bytes = 4 if self.geometry.dtype == "fp32" else 2
        over_all_s = attention_s(self._dense_device, self.shape, num_tokens, context, element_bytes)
        return over_all_s / len(self.shape.layers) * self._factors["dense"]

    def _one_dense_s(self, num_tokens: int) -> float:
        if self._dense is not None:
            return float(self._dense(num_tokens))
        device = self._dense_device
        work = roofline_s(device, self.geometry.dense_params, 16.0, num_tokens)
        return device.dense_call_s + work

    def copy_s(self, num_bytes: int | None = None) -> float:
        """Seconds to copy `num_bytes` (default: one expert) to the GPU from pinned memory; inf without a GPU."""
        if self.profile.h2d is None:
            return math.inf
        size = self._expert_bytes if num_bytes is None else num_bytes
        memo = self._memo["copy"]
        if size not in memo:
            memo[size] = self.profile.h2d.seconds(size) * self._factors["copy"]
        return memo[size]

    def roundtrip_s(self, num_tokens: int) -> float:
        """Seconds to bring the activations of `num_tokens` tokens to the host and the results back; 0 without a GPU."""
        down, up = self.profile.d2h, self.profile.h2d
        if down is None or up is None:
            return 0.0
        num_bytes = num_tokens * self.geometry.hidden * ACTIVATION_BYTES
        return (down.seconds(num_bytes) + up.seconds(num_bytes)) * self._factors["copy"]

    def cpu_start_s(self, num_tokens: int) -> float:
        """Seconds before the CPU lane's first expert: its call, and beside a GPU the round trip of the activations."""
        memo = self._memo["start"]
        if num_tokens not in memo:
            memo[num_tokens] = self.cpu_call_s() + self.roundtrip_s(num_tokens)
        return memo[num_tokens]

    def recalibrate(self, factors: Mapping[str, float]) -> None:
        """From now on predictions of these classes are the profile's times their factors.

        Raises InputError for an unknown class, or a factor that is not positive and finite.
        """
        for op, factor in factors.items():
            if op not in self._factors or not 0 < factor < math.inf:
                raise InputError(f"{op} times {factor:g}: factors are positive, of {', '.join(OPS)}")
        self._factors.update(factors)
        self.version += 1
        for memo in self._memo.values():
            memo.clear()

    @property
    def _dense_device(self) -> Processor:
        return self.profile.gpu or self.profile.cpu

    def _latency(self, key: str, device: Processor) -> Interpolation:
        table = expert_table(device, ExpertShape.of(self.geometry))
        self._sources[key] = table.source if device.tables else self.profile.source
        return Interpolation(table.tokens_P, table.median_s_P)
