"""A compiled policy's kernels with the watch in them: simple strategies decide where it says so, the policy learns on.

The watch looks at a step when the first layer of the next one is to be decided, and reckons a layer up where its demand
is learned, beside the lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..board import STEP, Board, Bytes
from ..jit import borrowed, bound, compiled_lean
from ..policies.compiled import DECIDED, PolicyKernels
from ..types import FloatArray, IntArray
from . import DECIDES, LAST_SEEN, ORIGINAL, Arrays, Watch, sections
from .judging import judge
from .reckoning import reckon
from .rules import bring_in, obey

if TYPE_CHECKING:  # names that jit.bound binds below

    def plan(board: Board, seconds_4T: FloatArray, own: Any) -> int: ...
    def answer(board: Board, seconds_4T: FloatArray, own: Any) -> None: ...
    def note(board: Board, seconds_4T: FloatArray, own: Any) -> None: ...
    def choose(board: Board, seconds_4T: FloatArray, own: Any) -> None: ...


SOURCES = tuple(f"hetsched.shadow{module}" for module in ("", ".judging", ".reckoning", ".rules", ".watched"))

_sections = compiled_lean(sections)


@compiled_lean
def open_watch(bytes_B: Bytes, ints_I: IntArray, floats_R: FloatArray) -> Watch:
    """The sections of a watch's three arrays, which the caller of the outermost kernel keeps alive."""
    return _sections(borrowed(bytes_B), borrowed(ints_I), borrowed(floats_R))


def _plan(board: Board, seconds_4T: FloatArray, own: Any) -> int:
    watch = open_watch(own[1], own[2], own[3])
    if board.at[STEP] != watch.at[LAST_SEEN]:
        judge(board, watch)
    if watch.at[DECIDES] == ORIGINAL:
        return plan(board, seconds_4T, own[0])
    obey(board, seconds_4T, watch)
    return DECIDED


def _answer(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    answer(board, seconds_4T, own[0])


def _note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    note(board, seconds_4T, own[0])
    reckon(board, seconds_4T, open_watch(own[1], own[2], own[3]))


def _choose(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    watch = open_watch(own[1], own[2], own[3])
    if watch.at[DECIDES] == ORIGINAL:
        choose(board, seconds_4T, own[0])
    else:
        bring_in(board, watch)


def watched(kernels: PolicyKernels, arrays: Arrays) -> PolicyKernels:
    """The kernels of a policy under this watch."""
    name = f"watched {kernels.name}"

    def with_watch(function: Callable[..., Any], **inner: Callable[..., Any]) -> Callable[..., Any]:
        return bound(name, function, **inner)

    return kernels._replace(
        name=name,
        sources=(*SOURCES, *kernels.sources),
        plan=with_watch(_plan, plan=kernels.plan),
        answer=with_watch(_answer, answer=kernels.answer),
        note=with_watch(_note, note=kernels.note),
        choose=with_watch(_choose, choose=kernels.choose),
        own=(kernels.own, *arrays),
    )
