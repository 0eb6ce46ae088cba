"""What Python calls of line.py: each takes the three arrays of a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..board import Bytes
from ..jit import compiled_and_kept, source_stamp
from ..types import FloatArray, IntArray
from .line import HOST_S, add, change, end, link_state, open_line, pass_s, sort_by_urgency, want


class LineCalls(NamedTuple):
    """The calls of a layer in their order."""

    pass_s: Callable[..., None]
    link_state: Callable[..., tuple[float, int, int]]
    begin: Callable[..., None]
    prefetch: Callable[..., None]
    end: Callable[..., None]
    change: Callable[..., None]


def _calls(stamp: int) -> LineCalls:
    @compiled_and_kept
    def passing(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, seconds: float) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        pass_s(open_line(bytes_B, ints_I, floats_R), seconds)

    @compiled_and_kept
    def reporting(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        believed_s: float,
        flying_F: IntArray,
        left_s_F: FloatArray,
        arrived_F: IntArray,
    ) -> tuple[float, int, int]:
        assert stamp >= 0
        return link_state(open_line(bytes_B, ints_I, floats_R), believed_s, flying_F, left_s_F, arrived_F)

    @compiled_and_kept
    def beginning(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, gpu_N: IntArray, fetched_N: IntArray) -> None:
        assert stamp >= 0
        line = open_line(bytes_B, ints_I, floats_R)
        for f in gpu_N:
            want(line, f)
        for f in fetched_N:
            add(line, f, True, 0.0)
        sort_by_urgency(line)

    @compiled_and_kept
    def prefetching(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, new_W: IntArray, at_s: float) -> None:
        assert stamp >= 0
        line = open_line(bytes_B, ints_I, floats_R)
        line.time_3[HOST_S] = at_s
        for f in new_W:
            add(line, f, False, at_s)

    @compiled_and_kept
    def ending(
        bytes_B: Bytes,
        ints_I: IntArray,
        floats_R: FloatArray,
        gpu_N: IntArray,
        gpu_s_N: FloatArray,
        call_s: float,
        cpu_work_s: float,
        cpu_start_s: float,
    ) -> None:
        assert stamp >= 0
        end(open_line(bytes_B, ints_I, floats_R), gpu_N, gpu_s_N, call_s, cpu_work_s, cpu_start_s)

    @compiled_and_kept
    def changing(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray, machine: FloatArray) -> None:
        assert stamp >= 0
        change(open_line(bytes_B, ints_I, floats_R), machine)

    return LineCalls(passing, reporting, beginning, prefetching, ending, changing)


calls = _calls(source_stamp("hetsched.replay.line", "hetsched.replay.line_calls"))
