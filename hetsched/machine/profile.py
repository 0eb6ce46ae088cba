"""HardwareProfile: what a machine takes to compute an expert and to copy one, each figure with its provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from ..errors import InputError
from ..geometry import WEIGHT_BITS, MoEGeometry, stored_bytes

if TYPE_CHECKING:
    from .datasheet import Datasheet


class Source(str, Enum):
    """How a figure was obtained."""

    MEASURED = "measured"
    DATASHEET = "datasheet"
    EMULATED = "emulated"
    SCALED = "scaled"


@dataclass(frozen=True)
class ExpertShape:
    """What an FFN latency depends on besides the number of tokens: geometry and kernel."""

    hidden: int
    ffn: int
    dtype: str
    matrices: int = 3

    @classmethod
    def of(cls, geometry: MoEGeometry) -> ExpertShape:
        """The shape of a model's routed experts."""
        return cls(geometry.hidden, geometry.ffn, geometry.dtype, geometry.matrices)

    @property
    def params(self) -> int:
        """Weights of one expert, biases aside."""
        return self.matrices * self.hidden * self.ffn

    @property
    def weight_bytes(self) -> int:
        """Bytes that these weights take as they are stored; by the format's bits where it cannot store this shape."""
        try:
            return stored_bytes(self.dtype, self.hidden, self.ffn, self.matrices)
        except InputError:
            return math.ceil(self.params * WEIGHT_BITS[self.dtype] / 8)

    def __str__(self) -> str:
        return f"{self.matrices} x {self.hidden} x {self.ffn} {self.dtype}"


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of one expert's FFN over the number of tokens, at one shape; P points, ascending tokens.

    Each is a whole call with this expert alone; `marginal`: what this expert adds to a call of several.
    `kernel`: what computed it. `copy_busy`: taken while a host-to-device copy ran; such a table documents the
    contention, the cost model reads the quiet one. `spread`: largest (p90 - p10) / median of the points.
    """

    shape: ExpertShape
    tokens_P: tuple[int, ...]
    median_s_P: tuple[float, ...]
    p10_s_P: tuple[float, ...] = ()
    p90_s_P: tuple[float, ...] = ()
    source: Source = Source.DATASHEET
    kernel: str = ""
    copy_busy: bool = False
    marginal: bool = False

    @property
    def spread(self) -> float:
        """Largest (p90 - p10) / median of the points; 0 where the percentiles are unknown."""
        rows = zip(self.p10_s_P, self.median_s_P, self.p90_s_P, strict=False)
        return max(((high - low) / median for low, median, high in rows), default=0.0)


@dataclass(frozen=True)
class DenseTable:
    """Seconds of the rest of one layer (attention, norms, router, shared experts) over the tokens of the step."""

    model: str
    tokens_P: tuple[int, ...]
    median_s_P: tuple[float, ...]
    source: Source = Source.MEASURED


@dataclass(frozen=True)
class Processor:
    """A GPU or the CPU: memory, roofline, and latency tables where measured.

    `read_bytes_per_s` and `flops_per_s` are what an expert's FFN reaches, not the datasheet's peak. `call_s`: once for
    each layer in which this processor computes experts, however many (kernel launches, thread wake-up).
    `per_expert_s`: fixed cost of each of them. `dense_call_s`: fixed cost of the rest of a layer.
    """

    name: str
    capacity_bytes: int
    read_bytes_per_s: float
    flops_per_s: float
    call_s: float
    tables: tuple[LatencyTable, ...] = ()
    dense: tuple[DenseTable, ...] = ()
    per_expert_s: float = 0.0
    dense_call_s: float = 0.0


@dataclass(frozen=True)
class Link:
    """One direction of a copy engine: latency_s + bytes / bytes_per_s; not pre-empted inside a chunk.

    The pair is that of pinned memory; `pageable_*` is the same from ordinary memory, 0 where unknown. `residual`: root
    mean square of the fit's relative errors over the measured sizes, 0 where nothing was fitted.
    """

    latency_s: float
    bytes_per_s: float
    chunk_bytes: int = 4 << 20
    pageable_latency_s: float = 0.0
    pageable_bytes_per_s: float = 0.0
    residual: float = 0.0

    def seconds(self, num_bytes: float) -> float:
        """Seconds to copy `num_bytes`."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class HostCost:
    """Seconds of the engine's own Python for a layer, decisions apart: median, and 10th and 90th percentile."""

    layer_s: float
    p10_s: float
    p90_s: float


@dataclass(frozen=True)
class HardwareProfile:
    """A machine as the cost model sees it.

    `gpu`, `h2d`, `d2h` are None on a machine without an accelerator. `cpu_slowdown`: factor >= 1 on CPU experts while
    a host-to-device copy runs; `h2d_slowdown`: factor >= 1 on a copy while CPU experts run. `host` is None where it was
    not measured, as in every datasheet. `provenance` maps the dotted name of a figure to its source where it differs
    from `source`, `reasons` to how it came about.
    `datasheet`: what a derived profile was derived from. `notes`: what the reader of any figure should know, such as
    what could not be measured.
    """

    name: str
    cpu: Processor
    gpu: Processor | None
    h2d: Link | None
    d2h: Link | None
    source: Source
    date: str
    title: str = ""
    cpu_slowdown: float = 1.0
    h2d_slowdown: float = 1.0
    pinnable_bytes: int = 0
    host: HostCost | None = None
    unified_memory: bool = False
    tool: str = ""
    fingerprint: Mapping[str, str | int] = field(default_factory=dict)
    provenance: Mapping[str, Source] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    datasheet: Datasheet | None = None

    @property
    def processors(self) -> tuple[tuple[str, Processor], ...]:
        """The processors present, each with its key: cpu first."""
        return (("cpu", self.cpu),) + ((("gpu", self.gpu),) if self.gpu else ())
