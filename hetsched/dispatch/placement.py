"""Placement of a window: what a solution is, what it costs, and problems from a trace.

Shapes: M recorded layer-steps, L layers, E experts, R tiers, G GPUs. Objectives are seconds a step, averaged.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..types import FloatArray, IntArray
from .problem import PlacementProblem, frozen
from .solver import REL_TOL, Status

Placed = npt.NDArray[np.int8]


@dataclass(frozen=True)
class PlacementSolution:
    """What should be resident: `tier_LE` (-1: nothing) and `gpu_LE` (which GPU; -1), with objective and lower bound."""

    status: Status
    tier_LE: Placed
    gpu_LE: Placed
    objective_s: float
    bound_s: float
    solve_s: float = 0.0
    note: str = ""

    @property
    def gap(self) -> float:
        """(objective - bound) / objective."""
        return (self.objective_s - self.bound_s) / self.objective_s if self.objective_s > 0 else 0.0


class PlacementSolver(Protocol):
    """One method, as Solver; runs in the background, on a window."""

    name: str

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """A placement within `time_limit_s` (None: the solver's own)."""
        ...


def validate(problem: PlacementProblem) -> None:
    """Raise InputError naming the first field that is out of range or of the wrong shape."""
    if problem.bytes_RLE.ndim != 3:
        raise InputError(f"bytes_RLE has {problem.bytes_RLE.ndim} dimensions, expected tiers, layers, experts")
    tiers, layers, experts = problem.bytes_RLE.shape
    samples = len(problem.tokens_ME)
    shapes = {
        "tokens_ME": (samples, experts),
        "layer_M": (samples,),
        "gpu_s_RME": (tiers, samples, experts),
        "cpu_s_ME": (samples, experts),
        "dense_s_M": (samples,),
        "roundtrip_s_M": (samples,),
        "gpu_call_s_M": (samples,),
        "copy_s_RLE": (tiers, layers, experts),
        "current_LE": (layers, experts),
    }
    for name, shape in shapes.items():
        values = getattr(problem, name)
        if values.shape != shape:
            raise InputError(f"{name} has shape {values.shape}, expected {shape}")
        if name != "current_LE" and not (values >= 0).all():
            raise InputError(f"{name} holds NaN or a negative value; it must be >= 0")
    if problem.capacity_bytes_G.ndim != 1 or not (problem.capacity_bytes_G >= 0).all():
        raise InputError(f"capacity_bytes_G is {problem.capacity_bytes_G}; it must hold bytes >= 0, one for each GPU")
    for name, most in (("layer_M", layers), ("current_LE", tiers)):
        if getattr(problem, name).max(initial=-1) >= most:
            raise InputError(f"{name} holds {getattr(problem, name).max()}; it must be below {most}")
    for name, least in (("window_steps", 1), ("num_samples", 1)):
        if getattr(problem, name) < least:
            raise InputError(f"{name} is {getattr(problem, name)}; it must be at least {least}")


def is_feasible(problem: PlacementProblem, tier_LE: Placed, gpu_LE: Placed) -> bool:
    """Whether tiers and GPUs exist and capacities hold."""
    placed = tier_LE >= 0
    if tier_LE.shape != problem.current_LE.shape or (tier_LE >= problem.bytes_RLE.shape[0]).any():
        return False
    if ((gpu_LE >= 0) != placed).any() or (gpu_LE >= len(problem.capacity_bytes_G)).any():
        return False
    layer, expert = np.nonzero(placed)
    held = problem.bytes_RLE[tier_LE[layer, expert], layer, expert]
    used_G = np.bincount(gpu_LE[layer, expert], weights=held, minlength=len(problem.capacity_bytes_G))
    return bool((used_G <= problem.capacity_bytes_G).all())


def objective_s(problem: PlacementProblem, tier_LE: Placed, gpu_LE: Placed) -> float:
    """Seconds a step: each layer-step takes its longest lane; the copy of what is new is paid off in the window."""
    steps_s = layer_step_s(problem, tier_LE, gpu_LE).sum() / problem.num_samples
    layer, expert = np.nonzero((tier_LE >= 0) & (tier_LE != problem.current_LE))
    copies_s = problem.copy_s_RLE[tier_LE[layer, expert], layer, expert].sum()
    return float(steps_s + copies_s / problem.window_steps)


def layer_step_s(problem: PlacementProblem, tier_LE: Placed, gpu_LE: Placed) -> FloatArray:
    """Seconds of each recorded layer-step, float [M], with misses on the CPU."""
    tier_ME, gpu_ME = tier_LE[problem.layer_M], gpu_LE[problem.layer_M]
    active_ME = problem.tokens_ME > 0
    on_cpu_ME = active_ME & (tier_ME < 0)
    cpu_M = (problem.cpu_s_ME * on_cpu_ME).sum(axis=1) + problem.roundtrip_s_M * on_cpu_ME.any(axis=1)
    work_ME = np.take_along_axis(problem.gpu_s_RME, np.maximum(tier_ME, 0)[None].astype(np.intp), axis=0)[0]
    longest_M: FloatArray = cpu_M
    for gpu in range(len(problem.capacity_bytes_G)):
        on_gpu_ME = active_ME & (gpu_ME == gpu)
        gpu_M = (work_ME * on_gpu_ME).sum(axis=1) + problem.gpu_call_s_M * on_gpu_ME.any(axis=1)
        longest_M = np.maximum(longest_M, gpu_M)
    return problem.dense_s_M + longest_M


def staying(problem: PlacementProblem, note: str = "") -> PlacementSolution:
    """What is resident now, on the first GPU; its objective is infinite where that does not fit."""
    tier_LE = problem.current_LE
    gpu_LE = np.where(tier_LE >= 0, 0, -1).astype(np.int8)
    cost_s = objective_s(problem, tier_LE, gpu_LE) if is_feasible(problem, tier_LE, gpu_LE) else np.inf
    return PlacementSolution(Status.INCUMBENT, tier_LE, gpu_LE, cost_s, -np.inf, note=note)


def solve_guarded(
    solver: PlacementSolver, problem: PlacementProblem, *, time_limit_s: float | None = None
) -> PlacementSolution:
    """Run a placement solver, recompute its claims; what is resident now is the answer where they do not hold.

    A late answer is kept: nobody waits for a placement. Raises InputError before the solver runs when the problem is
    malformed.
    """
    validate(problem)
    start = time.perf_counter()
    try:
        found = solver.solve(problem, time_limit_s=time_limit_s)
    except Exception as error:  # the scheduler goes on with what it has, and the note says why
        return staying(problem, f"{solver.name} raised {type(error).__name__}: {error}")
    took_s = time.perf_counter() - start
    if not is_feasible(problem, found.tier_LE, found.gpu_LE):
        stay = staying(problem, f"{solver.name} gave an infeasible placement")
        return replace(stay, solve_s=took_s)
    cost_s, stay = objective_s(problem, found.tier_LE, found.gpu_LE), staying(problem)
    if not cost_s <= stay.objective_s:
        return replace(stay, solve_s=took_s, note=f"{solver.name} was worse than staying")
    status, bound_s, note = found.status, found.bound_s, found.note
    if not bound_s <= cost_s * (1 + REL_TOL):
        status, bound_s, note = Status.FEASIBLE, -np.inf, f"{solver.name} claimed a bound above its objective"
    elif status is Status.OPTIMAL and bound_s < cost_s * (1 - REL_TOL):
        status, note = Status.FEASIBLE, f"{solver.name} claimed an optimum that its bound does not prove"
    return PlacementSolution(status, found.tier_LE, found.gpu_LE, cost_s, min(bound_s, cost_s), took_s, note)


def placement_problem(
    demand_SLE: IntArray,
    *,
    gpu_s_of: list[npt.NDArray[np.float64]],
    cpu_s_of: npt.NDArray[np.float64],
    tier_bytes: list[int],
    tier_copy_s: list[float],
    capacity_bytes_G: list[int],
    dense_s: float = 0.0,
    roundtrip_s: float = 0.0,
    gpu_call_s: float = 0.0,
    window_steps: int = 1000,
) -> PlacementProblem:
    """The problem of a window, nothing resident yet: `demand_SLE` tokens per step, layer and expert.

    `gpu_s_of[r][n]`, `cpu_s_of[n]`: seconds of one expert's FFN on n tokens, tabulated up to the largest demand.
    """
    steps, layers, experts = demand_SLE.shape
    tokens_ME = demand_SLE.reshape(steps * layers, experts).astype(np.int64)
    return PlacementProblem(
        tokens_ME=frozen(tokens_ME, np.int64),
        layer_M=frozen(np.tile(np.arange(layers), steps), np.int64),
        gpu_s_RME=frozen(np.stack([table[tokens_ME] for table in gpu_s_of])),
        cpu_s_ME=frozen(cpu_s_of[tokens_ME]),
        dense_s_M=frozen(np.full(steps * layers, dense_s)),
        roundtrip_s_M=frozen(np.full(steps * layers, roundtrip_s)),
        gpu_call_s_M=frozen(np.full(steps * layers, gpu_call_s)),
        bytes_RLE=frozen(np.broadcast_to(np.array(tier_bytes)[:, None, None], (len(tier_bytes), layers, experts)), int),
        copy_s_RLE=frozen(np.broadcast_to(np.array(tier_copy_s)[:, None, None], (len(tier_bytes), layers, experts))),
        current_LE=frozen(np.full((layers, experts), -1), np.int8),
        capacity_bytes_G=frozen(capacity_bytes_G, np.int64),
        window_steps=window_steps,
        num_samples=steps,
    )
