"""What rules that are kernels share, so that a policy's step can be compiled with them.

    choose(packed, size, link_free_s, roundtrip_s, gpu_call_s, order_N, choice_N)

fills `choice_N` (zeros: all on the CPU) with the devices of problem.Device; `order_N` is scratch.

Shapes: N experts under decision. `packed` is DispatchProblem.packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.answers import SolverKernel
from hetsched.dispatch.judge import seconds
from hetsched.dispatch.problem import DispatchProblem
from hetsched.jit import compiled_lean, source_stamp, specialised
from hetsched.types import FloatArray, IntArray

from .rule import Rule

if TYPE_CHECKING:  # a name that jit.specialised binds in the template below

    def choose(*problem_and_answer: Any) -> None: ...


CPU, GPU, FETCH = range(3)  # as problem.Device; kernels take literal numbers
SOURCES = ("hetsched_solvers.rule_kernels", "hetsched.dispatch.judge")
Answer = Callable[..., tuple[npt.NDArray[np.int8], float, float]]


class KernelRule(Rule):
    """A rule whose choice is a kernel: `answer`, from `answering`, of this module and its own."""

    answer: Answer

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """As the kernel has it."""
        choice_N, _, _ = self.answer(problem.packed, problem.size, *problem.numbers, 0, 0, 0)
        return choice_N

    def kernel(self, time_limit_s: float | None) -> SolverKernel:
        """The same, for a step to be compiled with; a rule needs no limit."""
        return SolverKernel(self.name, (*SOURCES, type(self).__module__), self.answer, 0, 0, 0)


def answering(module: str, choose: Callable[..., None]) -> Answer:
    """`choose`, a kernel of this module, as SolverKernel.solve."""
    made: Answer = specialised(module, _answering, source_stamp(*SOURCES, module), choose=choose)
    return made


def _answering(stamp: int) -> Answer:
    def answer(
        packed: FloatArray,
        size: int,
        link_free_s: float,
        roundtrip_s: float,
        gpu_call_s: float,
        max_nodes: int,
        always_prove: int,
        limit_nodes: int,
    ) -> tuple[npt.NDArray[np.int8], float, float]:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        choice_N, order_N = np.zeros(size, np.int8), np.empty(size, np.int64)
        choose(packed, size, link_free_s, roundtrip_s, gpu_call_s, order_N, choice_N)
        makespan_s, prices_s = seconds(packed, size, link_free_s, roundtrip_s, gpu_call_s, choice_N)
        return choice_N, makespan_s + prices_s, -np.inf

    return answer


@compiled_lean
def keep_here(packed: FloatArray, size: int, choice_N: npt.NDArray[np.int8]) -> None:
    """Residents on the GPU; experts in flight too, where waiting for them takes less time than the CPU."""
    for i in range(size):
        ready_s = packed[4 * size + i]
        choice_N[i] = GPU if ready_s == 0 or ready_s + packed[i] <= packed[size + i] else CPU


@compiled_lean
def is_missing(packed: FloatArray, size: int, i: int) -> bool:
    """Whether an expert is neither resident nor in flight."""
    return bool(packed[4 * size + i] == np.inf)


@compiled_lean
def may_fetch(packed: FloatArray, size: int, i: int) -> bool:
    """Whether it is missing and can be copied."""
    return bool(packed[4 * size + i] == np.inf and packed[3 * size + i] < np.inf)


@compiled_lean
def put(order_N: IntArray, count: int, i: int, key_N: FloatArray) -> None:
    """Put an expert among the first `count` of `order_N`: largest key first, behind its equals."""
    place = count
    while place > 0 and key_N[order_N[place - 1]] < key_N[i]:
        order_N[place] = order_N[place - 1]
        place -= 1
    order_N[place] = i
