"""Dispatch as a mixed-integer linear program, once for all general solvers: rows of coefficients, nothing else.

Shapes: N experts under decision, M movable experts in lane order, V victims, C columns, R rows.

Columns: x_M (1: on the GPU), y_V (1: the victim is taken), w (1: the GPU is used), z (1: the CPU is used),
t (makespan). Minimise

    t + sum of price_v y_v - sum over fetched of utility_i x_i

    t >= roundtrip z + cpu_s of what is not on the GPU               z >= 1 - x_i
    t >= gpu_call w + sum of gpu_s_i x_i                             w >= x_i   (where a call takes any time)
    sum of y = number of fetches
    t >= arrival_j x_j + sum of gpu_s_i x_i from j on                for every j that has to arrive

The arrival of a fetched expert is link_free + copies up to it. With x_j = 0 the last row still holds: what follows j
makes its own row at least as long. Prices ascend, so y takes the cheapest victims without being told.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem, johnson_order
from hetsched.types import FloatArray, IntArray

from .all_fetch import AllFetch
from .fiddler import Fiddler
from .sort import Sort


@dataclass(frozen=True)
class LinearProgram:
    """min cost_C . v, row_RC v >= low_R (equal in row 0), 0 <= v <= 1 except t >= 0; times in units of `unit_s`."""

    problem: DispatchProblem
    order_M: IntArray
    num_here: int
    cost_C: FloatArray
    row_RC: FloatArray
    low_R: FloatArray
    unit_s: float

    @property
    def num_columns(self) -> int:
        """Variables, the makespan last."""
        return len(self.cost_C)

    @property
    def movable(self) -> int:
        """Experts with a choice: the first columns."""
        return len(self.order_M)

    def choice(self, x_M: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
        """The choice that the first columns stand for."""
        choice_N = np.zeros(self.problem.size, np.int8)
        here_M = np.arange(self.movable) < self.num_here
        choice_N[self.order_M] = np.where(x_M, np.where(here_M, Device.GPU, Device.FETCH), Device.CPU)
        return choice_N

    @cached_property
    def start_C(self) -> FloatArray:
        """The incumbent, or a simple rule's choice where that is better, as a complete solution."""
        start_N = simple_choice(self.problem)
        value_C = np.zeros(self.num_columns)
        value_C[: self.movable] = start_N[self.order_M] != Device.CPU
        value_C[self.movable : self.movable + int((start_N == Device.FETCH).sum())] = 1.0
        value_C[-3:-1] = (start_N != Device.CPU).any(), (start_N == Device.CPU).any()
        value_C[-1] = self.problem.makespan_s(start_N) / self.unit_s
        return value_C


def simple_choice(problem: DispatchProblem) -> npt.NDArray[np.int8]:
    """The best of the incumbent and three rules that do not fail together."""
    choices = [problem.incumbent(), AllFetch().choose(problem), Fiddler().choose(problem), Sort().choose(problem)]
    return min(choices, key=problem.objective_s)


def linear_program(problem: DispatchProblem, size_of_t: float = 1.0) -> LinearProgram:
    """The program, scaled so that no useful makespan exceeds `size_of_t`. Longer times are cut to twice that."""
    problem.validate()
    here = np.flatnonzero(np.isfinite(problem.ready_s_N))
    here = here[np.argsort(problem.ready_s_N[here], kind="stable")]
    may_N = np.isinf(problem.ready_s_N) & np.isfinite(problem.copy_s_N)
    fetch = johnson_order(problem, np.flatnonzero(may_N)) if len(problem.victim_price_V) else np.zeros(0, np.int64)
    order_M = np.concatenate([here, fetch]).astype(np.int64)
    longest_s = problem.objective_s(simple_choice(problem)) + float(problem.utility_N[fetch].sum())
    unit_s = longest_s / size_of_t if longest_s > 0 else 1.0
    num_here, movable = len(here), len(order_M)
    victims = min(len(problem.victim_price_V), movable - num_here)
    columns = movable + victims + 3

    def in_units(values: FloatArray) -> FloatArray:
        return np.minimum(values[order_M] / unit_s, 2 * size_of_t)

    gpu_M, cpu_M = in_units(problem.gpu_s_N), in_units(problem.cpu_s_N)
    stuck_N = np.ones(problem.size, np.bool_)
    stuck_N[order_M] = False
    cost_C = np.zeros(columns)
    cost_C[num_here:movable] = -problem.utility_N[fetch] / unit_s
    cost_C[movable : movable + victims] = np.minimum(problem.victim_price_V[:victims] / unit_s, 2 * size_of_t)
    cost_C[-1] = 1.0
    same, low_same = np.zeros((1, columns)), np.zeros(1)
    same[0, num_here:movable], same[0, movable : movable + victims] = -1.0, 1.0
    cpu, low_cpu = np.zeros((1, columns)), np.array([cpu_M.sum() + problem.cpu_s_N[stuck_N].sum() / unit_s])
    cpu[0, :movable], cpu[0, -2], cpu[0, -1] = cpu_M, -problem.roundtrip_s / unit_s, 1.0
    uses, low_uses = np.zeros((movable + 1, columns)), np.ones(movable + 1)
    uses[np.arange(movable), np.arange(movable)] = 1.0
    uses[:, -2] = 1.0
    low_uses[-1] = float(stuck_N.any())
    gpu = _gpu_rows(problem, gpu_M, in_units(problem.copy_s_N), in_units(problem.ready_s_N), num_here, columns, unit_s)
    if problem.gpu_call_s > 0:
        calls = np.zeros((movable, columns))
        calls[:, -3], calls[np.arange(movable), np.arange(movable)] = 1.0, -1.0
        gpu = np.concatenate([gpu, calls])
    rows = np.concatenate([same, cpu, uses, gpu])
    low = np.concatenate([low_same, low_cpu, low_uses, np.zeros(len(gpu))])
    return LinearProgram(problem, order_M, num_here, cost_C, rows, low, unit_s)


def _gpu_rows(
    problem: DispatchProblem,
    gpu_M: FloatArray,
    copy_M: FloatArray,
    ready_M: FloatArray,
    num_here: int,
    columns: int,
    unit_s: float,
) -> FloatArray:
    movable = len(gpu_M)
    arriving = [j for j in range(movable) if j >= num_here or ready_M[j] > 0]
    rows = np.zeros((1 + len(arriving), columns))
    rows[:, -1] = 1.0
    rows[0, :movable], rows[0, -3] = -gpu_M, -problem.gpu_call_s / unit_s
    for row, j in zip(rows[1:], arriving, strict=True):
        row[j:movable] = -gpu_M[j:]
        if j < num_here:
            row[j] -= ready_M[j]
        else:
            row[num_here : j + 1] -= copy_M[num_here : j + 1]
            row[j] -= problem.link_free_s / unit_s
    return rows
