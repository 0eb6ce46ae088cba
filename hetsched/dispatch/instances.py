"""Dispatch problems to try solvers on: random ones of many kinds, and real ones from a routing trace.

Shapes: N experts under decision, V victims, T tokens, L layers, E experts. Random costs are drawn in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..traces.trace import RoutingTrace
from ..types import FloatArray, IntArray, Phase
from .problem import DispatchProblem, frozen

KINDS = ("different", "decode", "verify", "prefill", "tiers", "ties", "fast-link")
TOKENS = {Phase.DECODE: 1, Phase.VERIFY: 5, Phase.PREFILL: 256}  # in a step, when not told otherwise
HORIZON_STEPS = 16.0  # over which a residency is credited in real instances
FORGET = 0.02  # of the demand average, per step


class Costs(Protocol):
    """What instances need of a CostModel."""

    def gpu_s(self, n: npt.ArrayLike) -> FloatArray: ...
    def cpu_s(self, n: npt.ArrayLike) -> FloatArray: ...
    def copy_s(self) -> float: ...
    def cpu_start_s(self, num_tokens: int) -> float: ...
    def gpu_call_s(self) -> float: ...


def random_problem(rng: np.random.Generator, size: int, kind: str | None = None) -> DispatchProblem:
    """One random problem with `size` experts. `kind`: how their costs relate, one of KINDS.

    None draws one; "ties" (small whole numbers, many of them zero) only up to 16 experts, as no machine is like that.
    40 % are resident and 10 % in flight on average; prices, utilities, a busy link, a round trip and the GPU's call
    come and go.
    """
    gpu_N, cpu_N, copy_N = _random_costs(rng, size, kind or _any_kind(rng, size))
    where_N = rng.random(size)
    ready_N = np.where(where_N < 0.4, 0.0, np.where(where_N < 0.5, rng.uniform(0, 3, size), np.inf))
    utility_N = rng.uniform(0, 1.5, size) * (rng.random() < 0.6)
    price_V = np.sort(rng.uniform(0, 0.5, rng.integers(0, size + 2))) * (rng.random() < 0.6)
    if rng.random() < 0.2:
        copy_N[rng.random(size) < 0.3] = np.inf
    link_free, roundtrip = rng.uniform(0, 2) * (rng.random() < 0.5), 0.1 * (rng.random() < 0.5)
    (apart,) = rng.spawn(1)  # a stream of its own: all else is drawn as it was before problems had this figure
    gpu_call = apart.choice([0.0, 0.02, 1.0]) * apart.uniform(0.5, 1.5)
    return DispatchProblem(
        gpu_s_N=frozen(1e-3 * gpu_N),
        cpu_s_N=frozen(1e-3 * cpu_N),
        copy_s_N=frozen(1e-3 * copy_N),
        ready_s_N=frozen(1e-3 * ready_N),
        utility_N=frozen(1e-3 * utility_N),
        victim_price_V=frozen(1e-3 * price_V),
        link_free_s=1e-3 * link_free,
        roundtrip_s=1e-3 * roundtrip,
        gpu_call_s=1e-3 * gpu_call,
    )


def _any_kind(rng: np.random.Generator, size: int) -> str:
    kinds = [kind for kind in KINDS if size <= 16 or kind != "ties"]
    return kinds[rng.integers(len(kinds))]


def _random_costs(rng: np.random.Generator, size: int, kind: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """GPU, CPU and copy times in milliseconds."""
    if kind == "decode":  # one token each: gpt-oss on an 8 GB laptop
        return np.full(size, 0.053), np.full(size, 0.264), np.full(size, 1.1)
    if kind in ("verify", "prefill"):
        tokens_N: FloatArray = rng.geometric(0.4 if kind == "verify" else 0.01, size).astype(float)
        return 0.05 + 0.002 * tokens_N, 0.22 + 0.04 * tokens_N, np.full(size, 1.1)
    if kind == "tiers":  # experts of two precisions
        copy_N = rng.choice([0.3, 1.1], size)
        return rng.uniform(0.04, 0.06, size), rng.uniform(0.2, 0.3, size), copy_N
    if kind == "ties":
        gpu_N, cpu_N, ties_N = (rng.integers(0, most, size).astype(float) for most in (3, 4, 4))
        return gpu_N, cpu_N, ties_N
    if kind == "fast-link":  # copying takes less than computing
        return rng.uniform(0.2, 1.0, size), rng.uniform(0.5, 4.0, size), rng.uniform(0.1, 0.4, size)
    return rng.uniform(0.03, 0.3, size), rng.uniform(0.1, 2.0, size), rng.uniform(0.3, 1.5, size)


def trace_problems(
    trace: RoutingTrace,
    costs: Costs,
    *,
    gpu_fraction: float,
    phase: Phase,
    tokens: int | None = None,
    count: int = 200,
    seed: int = 0,
) -> Iterator[DispatchProblem]:
    """Real problems: layers of steps drawn from the second half of a trace.

    The `gpu_fraction` of experts that the first half uses most is resident; utilities and victim prices come from a
    running average of demand, so experts that are in fashion are worth a fetch. In a third of the steps the link is
    still busy, in half of those with an expert of this layer. Raises InputError for numbers out of range.
    """
    step_tokens = TOKENS[phase] if tokens is None else tokens
    if not 0 <= gpu_fraction <= 1:
        raise InputError(f"gpu_fraction is {gpu_fraction}; it must lie in 0..1")
    half = trace.num_tokens // 2
    if not 1 <= step_tokens <= half:
        raise InputError(f"tokens is {step_tokens}; it must lie in 1..{half}, half of the trace")
    if count < 1 or seed < 0:
        raise InputError(f"count is {count} and seed {seed}; they must be at least 1 and 0")
    rng = np.random.default_rng(seed)
    frequency_LE = trace.demand_LE(slice(0, half)) / max(half, 1)
    slots = round(gpu_fraction * frequency_LE.size)
    resident_LE = np.zeros(frequency_LE.shape, np.bool_)
    resident_LE.reshape(-1)[np.argsort(-frequency_LE, axis=None, kind="stable")[:slots]] = True
    starts = np.sort(rng.integers(half, trace.num_tokens - step_tokens + 1, count))
    average_LE, seen = frequency_LE.copy(), half
    for start in starts.tolist():
        for token in range(max(seen, start - 200), start):  # older ones are forgotten
            average_LE += FORGET * (trace.demand_LE(slice(token, token + 1)) - average_LE)
        seen = start
        layer = int(rng.integers(trace.num_layers))
        demand_E = trace.demand_LE(slice(start, start + step_tokens))[layer]
        yield _posed(rng, demand_E, layer, resident_LE, average_LE, costs, step_tokens)


def _posed(
    rng: np.random.Generator,
    demand_E: IntArray,
    layer: int,
    resident_LE: npt.NDArray[np.bool_],
    average_LE: FloatArray,
    costs: Costs,
    step_tokens: int,
) -> DispatchProblem:
    active_N = np.flatnonzero(demand_E)
    copy_s = costs.copy_s()
    saved_s = max(0.0, float(costs.cpu_s(1)) - float(costs.gpu_s(1)))
    utility_LE = HORIZON_STEPS * np.minimum(average_LE, 1.0) * saved_s
    ready_N = np.where(resident_LE[layer, active_N], 0.0, np.inf)
    missing = np.flatnonzero(np.isinf(ready_N))
    link_free_s = copy_s * rng.random() * (rng.random() < 1 / 3)
    if link_free_s and len(missing) and rng.random() < 0.5:
        ready_N[rng.choice(missing)] = link_free_s
    victim_LE = resident_LE.copy()
    victim_LE[layer, active_N] = False
    return DispatchProblem(
        gpu_s_N=frozen(costs.gpu_s(demand_E[active_N])),
        cpu_s_N=frozen(costs.cpu_s(demand_E[active_N])),
        copy_s_N=frozen(np.full(len(active_N), copy_s)),
        ready_s_N=frozen(ready_N),
        utility_N=frozen(utility_LE[layer, active_N]),
        victim_price_V=frozen(np.sort(utility_LE[victim_LE])[: len(missing)]),
        link_free_s=link_free_s,
        roundtrip_s=costs.cpu_start_s(step_tokens),
        gpu_call_s=costs.gpu_call_s(),
    )
