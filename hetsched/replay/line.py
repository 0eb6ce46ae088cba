"""Kernels of the timeline: a copy engine with its copies in order, and what a layer takes beside it.

All times are seconds from the decision of the current layer unless said otherwise.

Shapes: Q copies under way, F experts flat (layer * E + expert), N experts of a layer on the GPU, in order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..board import CHUNK_S, COPY_S, CPU_SLOWDOWN, LINK_SLOWDOWN, MACHINE, Bytes
from ..jit import borrowed, compiled_lean
from ..types import FloatArray, IntArray

UNDER_WAY, ARRIVED = range(2)  # places in `count_2`
NOW_S, BUSY_S, HOST_S = range(3)  # in `time_3`: since the line was made; link busy in this layer; host beside the lanes
MAKESPAN, GPU, CPU, LINK, STALL = range(5)  # of a layer's end


class Line(NamedTuple):
    """Copies in order of service: whom, undisturbed link time left, not before when, demanded or not, begun or not.

    `arrived_Q`: those that have arrived and were not reported yet. `machine`: as on a board. `arrival_s_Q`: scratch.
    """

    count_2: IntArray
    flat_Q: IntArray
    arrived_Q: IntArray
    time_3: FloatArray
    ends_5: FloatArray
    machine: FloatArray
    left_s_Q: FloatArray
    at_s_Q: FloatArray
    arrival_s_Q: FloatArray
    urgent_Q: Bytes
    begun_Q: Bytes


def sections(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> Line:
    """The sections of a line's three arrays, in Python and in kernels alike."""
    most = len(bytes_B) // 2
    left = 8 + MACHINE
    return Line(
        ints_I[:2],
        ints_I[2 : 2 + most],
        ints_I[2 + most :],
        floats_R[:3],
        floats_R[3:8],
        floats_R[8:left],
        floats_R[left : left + most],
        floats_R[left + most : left + 2 * most],
        floats_R[left + 2 * most :],
        bytes_B[:most],
        bytes_B[most:],
    )


def new_line(most: int, machine: FloatArray) -> tuple[Bytes, IntArray, FloatArray]:
    """The arrays of a line with nothing on it, for so many copies."""
    arrays = np.zeros(2 * most, np.uint8), np.zeros(2 + 2 * most, np.int64), np.zeros(8 + MACHINE + 3 * most)
    sections(*arrays).machine[:] = machine
    return arrays


_sections = compiled_lean(sections)


@compiled_lean
def open_line(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> Line:
    """The sections of a line's three arrays, which the caller of the outermost kernel keeps alive."""
    return _sections(borrowed(bytes_B), borrowed(ints_I), borrowed(floats_R))


@compiled_lean
def pass_s(line: Line, seconds: float) -> None:
    """Let time pass in which neither compute lane works for the experts."""
    line.time_3[NOW_S] += seconds
    if line.count_2[UNDER_WAY]:
        _run_link(line, seconds, 0.0)


@compiled_lean
def link_state(
    line: Line, believed_s: float, flying_F: IntArray, left_s_F: FloatArray, arrived_F: IntArray
) -> tuple[float, int, int]:
    """What the copy engine reports now: when a demanded copy would start, how many are under way and have arrived.

    Arrivals are reported once. `left_s_F`: seconds until each one under way has wholly arrived. As a real one does, it
    knows what is left of each copy, and takes a whole one to be of `believed_s` seconds.
    """
    arrived, line.count_2[ARRIVED] = line.count_2[ARRIVED], 0
    for i in range(arrived):
        arrived_F[i] = line.arrived_Q[i]
    count = line.count_2[UNDER_WAY]
    if count == 0:
        return 0.0, 0, arrived
    first = _next_copy(line)
    chunk_s = 0.0 if line.urgent_Q[first] else _chunk_left_s(line, first)
    free_s = end_s = chunk_s
    for i in range(count):
        if line.urgent_Q[i]:
            free_s += line.left_s_Q[i]
        end_s += line.left_s_Q[i] - chunk_s if i == first else line.left_s_Q[i]
        flying_F[i], left_s_F[i] = line.flat_Q[i], end_s
    if believed_s != line.machine[COPY_S]:
        free_s *= believed_s / line.machine[COPY_S]
        for i in range(count):
            left_s_F[i] *= believed_s / line.machine[COPY_S]
    return free_s, count, arrived


@compiled_lean
def change(line: Line, machine: FloatArray) -> None:
    """From now on copies take another machine's time, what is left of those under way too."""
    for i in range(line.count_2[UNDER_WAY]):
        line.left_s_Q[i] *= machine[COPY_S] / line.machine[COPY_S]
    for place in range(len(machine)):
        line.machine[place] = machine[place]


@compiled_lean
def want(line: Line, f: int) -> None:
    """A copy under way is demanded now."""
    for i in range(line.count_2[UNDER_WAY]):
        if line.flat_Q[i] == f:
            line.urgent_Q[i] = 1


@compiled_lean
def add(line: Line, f: int, urgent: bool, at_s: float) -> None:
    """Submit a copy, not to begin before `at_s`."""
    i = line.count_2[UNDER_WAY]
    line.flat_Q[i], line.left_s_Q[i], line.at_s_Q[i] = f, line.machine[COPY_S], at_s
    line.urgent_Q[i], line.begun_Q[i] = urgent, 0
    line.count_2[UNDER_WAY] = i + 1


@compiled_lean
def sort_by_urgency(line: Line) -> None:
    """Demanded copies first; in order of submission otherwise."""
    for i in range(1, line.count_2[UNDER_WAY]):
        place = i
        while place > 0 and line.urgent_Q[place] and not line.urgent_Q[place - 1]:
            _swap(line, place, place - 1)
            place -= 1


@compiled_lean
def _swap(line: Line, i: int, j: int) -> None:
    line.flat_Q[i], line.flat_Q[j] = line.flat_Q[j], line.flat_Q[i]
    line.left_s_Q[i], line.left_s_Q[j] = line.left_s_Q[j], line.left_s_Q[i]
    line.at_s_Q[i], line.at_s_Q[j] = line.at_s_Q[j], line.at_s_Q[i]
    line.urgent_Q[i], line.urgent_Q[j] = line.urgent_Q[j], line.urgent_Q[i]
    line.begun_Q[i], line.begun_Q[j] = line.begun_Q[j], line.begun_Q[i]


@compiled_lean
def end(line: Line, gpu_N: IntArray, gpu_s_N: FloatArray, call_s: float, cpu_work_s: float, cpu_start_s: float) -> None:
    """Run the layer to its end, into `ends_5`: makespan, busy seconds of the GPU and the link, the CPU's end, stall.

    `gpu_N`: experts on the GPU in order, flat, with their seconds after those of the lane's call; the CPU lane begins
    its work at `cpu_start_s`.
    """
    awaited = 0
    for i in range(len(gpu_N)):
        line.arrival_s_Q[i] = -1.0
        for q in range(line.count_2[UNDER_WAY]):
            awaited += line.flat_Q[q] == gpu_N[i]
    cpu_end_s, moment_s = _run_both(line, cpu_work_s, cpu_start_s, gpu_N, awaited)
    busy_s = gpu_end_s = call_s
    for i in range(len(gpu_N)):
        busy_s += gpu_s_N[i]
        gpu_end_s = max(gpu_end_s, line.arrival_s_Q[i]) + gpu_s_N[i]
    makespan_s = max(gpu_end_s, cpu_end_s, line.time_3[HOST_S])
    if line.count_2[UNDER_WAY]:
        _run_link(line, makespan_s - moment_s, moment_s)
        for q in range(line.count_2[UNDER_WAY]):
            line.at_s_Q[q] = 0.0
    line.time_3[NOW_S] += makespan_s
    line.ends_5[MAKESPAN], line.ends_5[GPU], line.ends_5[CPU] = makespan_s, busy_s, cpu_end_s
    line.ends_5[LINK], line.ends_5[STALL] = line.time_3[BUSY_S], gpu_end_s - busy_s
    line.time_3[BUSY_S] = line.time_3[HOST_S] = 0.0


@compiled_lean
def _chunk_left_s(line: Line, i: int) -> float:
    if not line.begun_Q[i]:
        return 0.0
    chunk_s = line.machine[CHUNK_S]
    left_s = line.left_s_Q[i] % chunk_s
    return left_s if chunk_s - left_s > 1e-12 else 0.0  # a whole chunk but for rounding: not begun


@compiled_lean
def _run_link(line: Line, seconds: float, from_s: float) -> None:
    """Copy for so long with the CPU lane idle."""
    end_s = from_s + seconds
    while line.count_2[UNDER_WAY] and from_s < end_s:
        from_s = max(from_s, line.at_s_Q[0])
        if from_s >= end_s:
            return
        spent_s = min(line.left_s_Q[0], end_s - from_s)
        from_s += spent_s
        _progress(line, 0, spent_s, spent_s)


@compiled_lean
def _progress(line: Line, i: int, work_s: float, took_s: float) -> int:
    """Account for a stretch of copying; whose copy has arrived, or -1."""
    line.time_3[BUSY_S] += took_s
    line.begun_Q[i] = 1
    line.left_s_Q[i] -= work_s
    if line.left_s_Q[i] > 1e-15:
        return -1
    f, last = line.flat_Q[i], line.count_2[UNDER_WAY] - 1
    for q in range(i, last):
        _swap(line, q, q + 1)
    line.count_2[UNDER_WAY] = last
    line.arrived_Q[line.count_2[ARRIVED]] = f
    line.count_2[ARRIVED] += 1
    return int(f)


@compiled_lean
def _run_both(line: Line, cpu_work_s: float, cpu_start_s: float, gpu_N: IntArray, awaited: int) -> tuple[float, float]:
    """Copy and compute until the CPU lane and the awaited copies have ended.

    Returns the CPU lane's end and the moment up to which the link has been run; fills `arrival_s_Q`.
    """
    cpu_end_s = cpu_start_s + cpu_work_s if cpu_work_s else 0.0
    if not line.count_2[UNDER_WAY]:
        return cpu_end_s, cpu_end_s
    cpu_slowdown, link_slowdown = line.machine[CPU_SLOWDOWN], line.machine[LINK_SLOWDOWN]
    moment_s, cpu_left_s = 0.0, cpu_work_s
    while line.count_2[UNDER_WAY] and (cpu_left_s > 0 or awaited > 0):
        i = _next_copy(line)
        ready_s = max(moment_s, line.at_s_Q[i])
        if cpu_left_s > 0 and ready_s > cpu_start_s and ready_s > moment_s:  # the link waits, the CPU does not
            alone_s = ready_s - max(moment_s, cpu_start_s)
            if cpu_left_s <= alone_s:
                cpu_end_s = moment_s = max(moment_s, cpu_start_s) + cpu_left_s
                cpu_left_s = 0.0
                continue
            cpu_left_s -= alone_s
        moment_s = ready_s
        work_s = _piece_s(line, i)
        if cpu_left_s <= 0:
            took_s = work_s
        elif moment_s < cpu_start_s:
            took_s = work_s = min(work_s, cpu_start_s - moment_s)
        else:
            took_s = min(work_s * link_slowdown, cpu_left_s * cpu_slowdown)
            work_s = took_s / link_slowdown
            cpu_left_s -= took_s / cpu_slowdown
            if cpu_left_s <= 1e-15:
                cpu_left_s, cpu_end_s = 0.0, moment_s + took_s
        moment_s += took_s
        f = _progress(line, i, work_s, took_s)
        for n in range(len(gpu_N)):
            if gpu_N[n] == f:
                line.arrival_s_Q[n] = moment_s
                awaited -= 1
    if cpu_left_s > 0:
        cpu_end_s = max(moment_s, cpu_start_s) + cpu_left_s
    return cpu_end_s, moment_s


@compiled_lean
def _next_copy(line: Line) -> int:
    """The copy to go on with: one under way until its chunk ends, then demanded ones, then prefetches."""
    if line.urgent_Q[0]:
        for i in range(line.count_2[UNDER_WAY]):
            if line.begun_Q[i] and not line.urgent_Q[i] and _chunk_left_s(line, i) > 1e-15:
                return i
    return 0


@compiled_lean
def _piece_s(line: Line, i: int) -> float:
    """Work until the next moment at which another copy may come between."""
    if not line.urgent_Q[i] and line.urgent_Q[0]:
        return _chunk_left_s(line, i)
    return float(line.left_s_Q[i])
