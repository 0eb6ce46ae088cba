"""Latency of expert FFNs over token counts: a table interpolated, and one geometry's table scaled to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..machine.profile import DenseTable, ExpertShape, LatencyTable, Processor, Source
from ..types import FloatArray

ROOFLINE_TOKENS = tuple(2**i for i in range(13))


class Interpolation:
    """Seconds over token counts, straight between the points of a table on logarithmic axes.

    Never a fitted line: measured curves are neither affine nor monotone. Below the first point its value holds; beyond
    the last one the curve goes on with its last slope, never falling and never steeper than work grows. 0 at 0 tokens.
    """

    def __init__(self, tokens_P: Sequence[int], seconds_P: Sequence[float]) -> None:
        self._log_n = np.log2(np.asarray(tokens_P, float))
        self._log_s = np.log2(np.asarray(seconds_P, float))
        self._slope = 1.0
        if len(tokens_P) > 1:
            last = (self._log_s[-1] - self._log_s[-2]) / (self._log_n[-1] - self._log_n[-2])
            self._slope = float(np.clip(last, 0.0, 1.0))

    def __call__(self, n: npt.ArrayLike) -> FloatArray:
        """Seconds for n tokens, scalar or array, in the shape of n."""
        tokens = np.asarray(n, float)
        log_n = np.log2(np.maximum(tokens, 1.0))
        beyond = np.maximum(log_n - self._log_n[-1], 0.0)
        seconds = np.exp2(np.interp(log_n, self._log_n, self._log_s) + beyond * self._slope)
        return np.where(tokens > 0, seconds, 0.0)


def expert_table(device: Processor, shape: ExpertShape) -> LatencyTable:
    """What an expert of `shape` adds to a call: by the device's own table, the nearest one scaled, or the roofline.

    A scaled table is marked so. The answer is always `marginal`; the call itself is `device.call_s`, once.
    """
    quiet = [table for table in device.tables if not table.copy_busy]
    own = [table for table in quiet if table.shape == shape]
    if own:
        return marginal_table(own[0], device)
    if not quiet:
        seconds_P = tuple(expert_s(device, shape, n) for n in ROOFLINE_TOKENS)
        return LatencyTable(shape, ROOFLINE_TOKENS, seconds_P, source=Source.SCALED, marginal=True)
    nearest = min(quiet, key=lambda table: _distance(table.shape, shape))
    return scale_table(marginal_table(nearest, device), device, shape)


def marginal_table(table: LatencyTable, device: Processor) -> LatencyTable:
    """The table without the cost of a call: each point less `call_s`, but at least what `expert_s` says.

    Work may hide behind the launches of a call with one expert, and then all of it is left once the call is paid. A
    point that lies below `expert_s` itself, call and all, stays as it is.
    """
    if table.marginal:
        return table
    floors = [expert_s(device, table.shape, n) for n in table.tokens_P]

    def without_call(column: Sequence[float]) -> tuple[float, ...]:
        return tuple(max(s - device.call_s, min(s, low)) for s, low in zip(column, floors, strict=False))

    return replace(
        table,
        median_s_P=without_call(table.median_s_P),
        p10_s_P=without_call(table.p10_s_P),
        p90_s_P=without_call(table.p90_s_P),
        marginal=True,
    )


def scale_table(table: LatencyTable, device: Processor, shape: ExpertShape) -> LatencyTable:
    """A marginal table at another shape: each point times the ratio of the two shapes' `expert_s`."""
    ratios = [expert_s(device, shape, n) / expert_s(device, table.shape, n) for n in table.tokens_P]

    def scaled(column: Sequence[float]) -> tuple[float, ...]:
        return tuple(s * r for s, r in zip(column, ratios, strict=True)) if column else ()

    return replace(
        table,
        shape=shape,
        median_s_P=scaled(table.median_s_P),
        p10_s_P=scaled(table.p10_s_P),
        p90_s_P=scaled(table.p90_s_P),
        source=Source.SCALED,
    )


def expert_s(device: Processor, shape: ExpertShape, num_tokens: int) -> float:
    """What one expert adds to a call: its fixed cost and its roofline (Williams et al. 2009)."""
    return device.per_expert_s + roofline_s(device, shape.params, 8 * shape.weight_bytes / shape.params, num_tokens)


def roofline_s(device: Processor, params: int, bits: float, num_tokens: int) -> float:
    """The larger of bytes over read rate and FLOPs over throughput."""
    return max(params * bits / 8 / device.read_bytes_per_s, 2.0 * params * num_tokens / device.flops_per_s)


def dense_table(device: Processor, model: str) -> DenseTable | None:
    """The measured rest of a layer of this model, None when there is none."""
    return next((table for table in device.dense if table.model == model), None)


def _distance(theirs: ExpertShape, wanted: ExpertShape) -> tuple[bool, float]:
    """Another dtype is farther than any size: it is another kernel."""
    return theirs.dtype != wanted.dtype, abs(math.log(theirs.params / wanted.params))
