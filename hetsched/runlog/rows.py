"""From a ring's numbers to a log's layers."""

from __future__ import annotations

from collections.abc import Sequence

from ..board import ON_CPU, ON_GPU
from ..dispatch.answers import ANSWERS
from .lines import PHASES, Layer, Link, Move
from .ring import HERE, RawLayer

LETTERS = {ON_GPU + HERE: "r", ON_GPU: "i", ON_CPU + HERE: "h", ON_CPU: "c"}


def layer_row(raw: RawLayer, experts: int, drafted: Sequence[Move] = (), failed: Sequence[int] = ()) -> Layer:
    """One layer of a model of so many experts a layer.

    `drafted`: moves since the layer before; `failed`: experts that the CPU computed after they failed elsewhere.
    """
    step, layer, phase, tokens, new_request, slots, status = raw.head[:7]
    dense_s, makespan_s, gpu_s, cpu_s, link_s, stall_s, host_s, copied, copied_s, decide_s, predicted_s, beside_s = (
        raw.outcome
    )
    moves = [*drafted, *_moves("fetch", raw.fetches_3, [0.0] * len(raw.fetches_3[0]), experts)]
    moves += _moves("prefetch", raw.copies_3, raw.gain_s, experts)
    link = None
    if raw.flying:
        under_way = [(*divmod(f, experts), left_s) for f, left_s in zip(raw.flying, raw.left_s, strict=True)]
        link = Link(raw.free_s, tuple(under_way))
    return Layer(
        step,
        layer,
        PHASES[phase],
        tokens,
        bool(new_request),
        raw.begin_s,
        raw.begin_s + dense_s + host_s + decide_s + makespan_s,
        dense_s,
        host_s,
        decide_s,
        predicted_s,
        makespan_s,
        beside_s,
        stall_s,
        gpu_s,
        cpu_s,
        link_s,
        int(copied),
        copied_s,
        tuple(raw.active),
        tuple(raw.tokens),
        _lanes(raw, layer * experts, failed),
        ANSWERS[status],
        slots,
        tuple(moves),
        tuple([divmod(f, experts) for f in raw.evicts]),
        link,
    )


def _moves(kind: str, rows: list[list[int]], gain_s: Sequence[float], experts: int) -> list[Move]:
    found = []
    for f, victim, slot, gained in zip(*rows, gain_s, strict=True):
        out = None if victim < 0 else divmod(victim, experts)
        found.append(Move(kind, f // experts, f % experts, slot, out, gained or None))
    return found


def _lanes(raw: RawLayer, first: int, failed: Sequence[int]) -> str:
    """A letter for each active expert."""
    fetched, letter = {f - first for f in raw.fetches_3[0]}, {}
    for expert, lane in zip(*raw.runs_2, strict=True):
        letter[expert] = "f" if expert in fetched else LETTERS[lane]
    letter.update(dict.fromkeys(failed, "x"))
    return "".join([letter[expert] for expert in raw.active])
