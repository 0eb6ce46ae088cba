"""Placement as a mixed-integer linear program over sparse rows, once for HiGHS and CP-SAT.

Shapes: M recorded layer-steps, L layers, E experts, R tiers, G GPUs.

    min  sum_m t_m / steps + sum copy x / window             x[r, g, l, e] binary, t_m >= 0, z_m, w_mg in 0..1
    t_m >= dense + sum cpu_s (1 - sum_rg x) + roundtrip z_m      z_m >= 1 - sum_rg x of each active expert
    t_m >= dense + gpu_call w_g + sum_re gpu_s x for each GPU    w_g >= sum_r x of each active expert
    sum_rg x <= 1                   for each expert
    sum bytes x <= capacity         for each GPU

Layer-steps of one layer with the same demand are one row with a weight. Experts never asked for have no column.
Rows that give a t, w or z its lower bound begin with it; those of w and z come before those of the t they add to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hetsched.dispatch.placement import Placed
from hetsched.dispatch.problem import PlacementProblem


@dataclass
class SparseProgram:
    """min cost . v; rows low <= sum value v <= high; the first `binaries` columns are 0/1, all in 0..`high_column`."""

    cost: list[float] = field(default_factory=list)
    high_column: list[float] = field(default_factory=list)
    binaries: int = 0
    row_id: list[int] = field(default_factory=list)
    column_id: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    where: list[tuple[int, int, int, int]] = field(default_factory=list)  # tier, GPU, layer, expert of each binary

    def add_column(self, cost: float, high: float) -> int:
        """Number of a new column."""
        self.cost.append(cost)
        self.high_column.append(high)
        return len(self.cost) - 1

    def add_row(self, columns: list[int], values: list[float], low: float, high: float) -> None:
        """A new row."""
        self.row_id += [len(self.low)] * len(columns)
        self.column_id += columns
        self.value += values
        self.low.append(low)
        self.high.append(high)

    def placement(self, problem: PlacementProblem, chosen: set[int]) -> tuple[Placed, Placed]:
        """Tiers and GPUs that the chosen binaries stand for."""
        tier_LE = np.full(problem.current_LE.shape, -1, np.int8)
        gpu_LE = tier_LE.copy()
        for column in chosen:
            tier, gpu, layer, expert = self.where[column]
            tier_LE[layer, expert], gpu_LE[layer, expert] = tier, gpu
        return tier_LE, gpu_LE


def sparse_program(problem: PlacementProblem, unit_s: float) -> SparseProgram:
    """The program with times in units of `unit_s` and bytes in units of the smallest expert."""
    program = SparseProgram()
    columns_of = _binaries(program, problem, unit_s)
    _capacity_rows(program, problem)
    for demand in _distinct(problem):
        _layer_step(program, problem, columns_of, demand, unit_s)
    return program


def _binaries(program: SparseProgram, problem: PlacementProblem, unit_s: float) -> dict[tuple[int, int], list[int]]:
    asked_LE = np.zeros(problem.current_LE.shape, np.bool_)
    np.logical_or.at(asked_LE, problem.layer_M, problem.tokens_ME > 0)
    columns_of: dict[tuple[int, int], list[int]] = {}
    for layer, expert in np.argwhere(asked_LE).tolist():
        columns = columns_of.setdefault((layer, expert), [])
        current = int(problem.current_LE[layer, expert])
        for tier in range(len(problem.bytes_RLE)):
            copy_s = 0.0 if tier == current else float(problem.copy_s_RLE[tier, layer, expert])
            for gpu in range(len(problem.capacity_bytes_G)):
                columns.append(program.add_column(copy_s / problem.window_steps / unit_s, 1.0))
                program.where.append((tier, gpu, layer, expert))
        program.add_row(columns, [1.0] * len(columns), 0.0, 1.0)
    program.binaries = len(program.cost)
    return columns_of


def _capacity_rows(program: SparseProgram, problem: PlacementProblem) -> None:
    smallest = float(problem.bytes_RLE.min())
    for gpu, capacity in enumerate(problem.capacity_bytes_G.tolist()):
        columns = [c for c, (_, g, _, _) in enumerate(program.where) if g == gpu]
        sizes = [
            float(problem.bytes_RLE[program.where[c][0], program.where[c][2], program.where[c][3]]) for c in columns
        ]
        program.add_row(columns, [size / smallest for size in sizes], -np.inf, capacity / smallest)


def _distinct(problem: PlacementProblem) -> list[tuple[int, int]]:
    """A layer-step for each different (layer, demand), and how often it occurs."""
    keys = np.column_stack([problem.layer_M, problem.tokens_ME])
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    return list(zip(first.tolist(), count.tolist(), strict=True))


def _layer_step(
    program: SparseProgram,
    problem: PlacementProblem,
    columns_of: dict[tuple[int, int], list[int]],
    demand: tuple[int, int],
    unit_s: float,
) -> None:
    m, times = demand
    layer = int(problem.layer_M[m])
    active = np.flatnonzero(problem.tokens_ME[m]).tolist()
    t = program.add_column(times / problem.num_samples, np.inf)
    z = program.add_column(0.0, 1.0)
    cpu_columns, cpu_values, total = [t, z], [1.0, -float(problem.roundtrip_s_M[m]) / unit_s], 0.0
    call = float(problem.gpu_call_s_M[m]) / unit_s
    gpu_rows: dict[int, tuple[list[int], list[float]]] = {}
    for gpu in range(len(problem.capacity_bytes_G)):
        gpu_rows[gpu] = ([t, program.add_column(0.0, 1.0)], [1.0, -call]) if call > 0 else ([t], [1.0])
    for expert in active:
        columns = columns_of[layer, expert]
        cpu = float(problem.cpu_s_ME[m, expert]) / unit_s
        total += cpu
        cpu_columns += columns
        cpu_values += [cpu] * len(columns)
        if problem.roundtrip_s_M[m] > 0:
            program.add_row([z, *columns], [1.0] * (1 + len(columns)), 1.0, np.inf)
        for column in columns:
            tier, gpu, _, _ = program.where[column]
            gpu_rows[gpu][0].append(column)
            gpu_rows[gpu][1].append(-float(problem.gpu_s_RME[tier, m, expert]) / unit_s)
        for gpu, (used, _) in gpu_rows.items() if call > 0 else ():
            here = [column for column in columns if program.where[column][1] == gpu]
            program.add_row([used[1], *here], [1.0] + [-1.0] * len(here), 0.0, np.inf)
    dense = float(problem.dense_s_M[m]) / unit_s
    program.add_row(cpu_columns, cpu_values, dense + total, np.inf)
    for columns, values in gpu_rows.values():
        program.add_row(columns, values, dense, np.inf)
