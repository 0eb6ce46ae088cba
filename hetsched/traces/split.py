"""Parts of traces and joins of traces, by whole sequences, with the meta object carried along.

Shapes: T tokens, L layers, K ids a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..types import IntArray
from .checks import OPTIONAL, chunks
from .meta import FORMAT, MAX_TEXT
from .routers import Routers
from .trace import RoutingTrace
from .writer import TraceWriter


def sequence_starts(trace: RoutingTrace) -> IntArray:
    """First token of every sequence, and the number of tokens at the end: int64 [sequences + 1]."""
    starts = [0]
    for part in chunks(trace.num_tokens):
        before = max(part.start - 1, 0)
        starts += (np.flatnonzero(np.diff(trace.sequence_T[before : part.stop])) + before + 1).tolist()
    return np.array([*starts, trace.num_tokens], np.int64)


def sequences(trace: RoutingTrace, first: int, last: int) -> RoutingTrace:
    """Sequences `first` to `last` - 1, counted from 0 in order, as views; numbers stay, meta.sequences is cut.

    Raises InputError for a range that is empty or outside.
    """
    starts_S = sequence_starts(trace)
    count = len(starts_S) - 1
    if not 0 <= first < last <= count:
        raise InputError(f"sequences {first}:{last} is empty or outside; the trace has sequences 0:{count}")
    part = slice(int(starts_S[first]), int(starts_S[last]))
    meta = dict(trace.meta)
    listed = meta.get("sequences")
    if isinstance(listed, list) and len(listed) == count:
        meta["sequences"] = listed[first:last]
    return replace(tokens(trace, part), meta=meta)


def tokens(trace: RoutingTrace, part: slice) -> RoutingTrace:
    """Some consecutive tokens, as views; meta as it is."""
    return replace(
        trace,
        experts_TLK=trace.experts_TLK[part],
        sequence_T=trace.sequence_T[part],
        phase_T=trace.phase_T[part],
        weights_TLK=None if trace.weights_TLK is None else trace.weights_TLK[part],
        step_T=None if trace.step_T is None else trace.step_T[part],
        kept_T=None if trace.kept_T is None else trace.kept_T[part],
        hidden_TLH=None if trace.hidden_TLH is None else trace.hidden_TLH[part],
    )


def split(trace: RoutingTrace, fraction: float) -> tuple[RoutingTrace, RoutingTrace]:
    """The first share of the sequences, rounded down but at least one, and the others.

    Raises InputError for a fraction outside 0..1, ends excluded, or a trace with one sequence.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the fraction is {fraction:g}; it must lie between 0 and 1, ends excluded")
    count = len(sequence_starts(trace)) - 1
    if count < 2:
        raise InputError("the trace has one sequence, and parts are made of whole sequences")
    first = max(1, int(count * fraction))
    return sequences(trace, 0, first), sequences(trace, first, count)


def concat(traces: Sequence[RoutingTrace], path: str | Path) -> dict[str, Any]:
    """Write one trace of all, in order, sequences and steps numbered anew from 0; the meta object stored.

    Weights, steps and hidden states are kept where all have them, routers where all have the same; rejected drafts stay
    marked. Raises InputError for traces of different shapes or models; how a model's name is spelt (owner, case,
    hyphens) makes no difference.
    """
    _same_shape(traces)
    first = traces[0]
    traces = _all_marked(traces)
    extras = tuple(name for name in OPTIONAL if all(name in trace.arrays() for trace in traces))
    shape, width = (first.num_layers, first.top_k), first.width
    with TraceWriter(path, first.num_experts, shape, extras=extras, width=width) as writer:
        next_number = {"sequence": 0, "step": 0}
        for trace in traces:
            arrays = trace.arrays()
            last = dict.fromkeys(next_number, -1)
            for part in chunks(trace.num_tokens, trace.experts_TLK[0].size):
                piece = {name: arrays[name][part] for name in ("experts", "sequence", "phase", *extras)}
                for name in next_number.keys() & piece.keys():
                    piece[name], next_number[name], last[name] = _renumbered(piece[name], next_number[name], last[name])
                writer.append(**piece)
        return writer.finish(
            _shared_routers(traces),
            **merged_meta([trace.meta for trace in traces], [len(sequence_starts(t)) - 1 for t in traces]),
        )


def _all_marked(traces: Sequence[RoutingTrace]) -> Sequence[RoutingTrace]:
    """The traces, those without `kept` among others with it as having kept all."""
    if all(trace.kept_T is None for trace in traces):
        return traces
    for i, trace in enumerate(traces, start=1):
        if trace.step_T is None:
            raise InputError(f"trace {i} has no steps, and another has verify steps; join traces of one kind")
    return [t if t.kept_T is not None else replace(t, kept_T=np.ones(t.num_tokens, np.uint8)) for t in traces]


def _shared_routers(traces: Sequence[RoutingTrace]) -> Routers | None:
    """The routers that all traces have, if they are the same."""
    first = traces[0].routers
    if first is None:
        return None
    for trace in traces[1:]:
        if trace.routers is None or not first.same_as(trace.routers):
            return None
    return first


def _renumbered(numbers_T: Any, next_number: int, last: int) -> tuple[IntArray, int, int]:
    """Ascending numbers made consecutive: the runs get `next_number`, and so on; a run may begin in the chunk before.

    `last` is the stored number that ended the chunk before, -1 at the start of a trace.
    """
    is_new_T = np.diff(numbers_T, prepend=last) != 0
    renumbered_T = next_number - 1 + np.cumsum(is_new_T)
    return renumbered_T, int(renumbered_T[-1]) + 1, int(numbers_T[-1])


def _same_shape(traces: Sequence[RoutingTrace]) -> None:
    first = traces[0]
    for i, other in enumerate(traces[1:], start=2):
        for name in ("num_experts", "num_layers", "top_k", *(("width",) if first.width and other.width else ())):
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                raise InputError(
                    f"trace {i} has {name} {theirs}, the first {ours}; only traces of one model are joined"
                )
        if first.meta.get("steered") != other.meta.get("steered"):
            raise InputError(f"trace {i} and the first are of models steered differently, or one is not; join neither")
        for name, alike in (("model", _spelt), ("layers", str)):
            ours, theirs = first.meta.get(name), other.meta.get(name)
            if ours is not None and theirs is not None and alike(ours) != alike(theirs):
                raise InputError(f"trace {i} has meta.{name} {theirs!r:.60}, the first {ours!r:.60}")


def _spelt(model: object) -> str:
    """A model's name without its owner, case, and what stands between words: "openai/GPT-OSS_20b" is gpt-oss-20b."""
    return re.sub(r"[\W_]+", "", str(model).strip().rstrip("/").rpartition("/")[2]).lower()


def merged_meta(metas: Sequence[dict[str, Any]], sequence_counts: Sequence[int]) -> dict[str, Any]:
    """One meta object: equal values stay, different texts are joined, other differences become lists.

    A model's name is as the first trace spells it where the others only spell it otherwise. `sequences` lists are
    joined where every trace has one entry for each of its sequences, and dropped otherwise.
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for meta in metas for key in meta):
        values = [meta[key] for meta in metas if key in meta]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        if key == "sequences":
            if [len(v) if isinstance(v, list) else -1 for v in values] == list(sequence_counts):
                merged[key] = [entry for value in values for entry in value]
        elif key == "repeats_allowed":
            merged[key] = any(values)
        elif len(distinct) == 1 or (key == "model" and len({_spelt(value) for value in distinct}) == 1):
            merged[key] = distinct[0]
        else:
            merged[key] = _joined(distinct) if all(isinstance(v, str) for v in distinct) else distinct
    return {**merged, "format": FORMAT}


def _joined(texts: Sequence[str]) -> str:
    """As many of the texts as a meta text may hold, and how many others there are."""
    joined = "; ".join(texts)
    if len(joined) <= MAX_TEXT:
        return joined
    kept = joined[: MAX_TEXT - 40].split("; ")[:-1]
    return "; ".join([*kept, f"and {len(texts) - len(kept)} more"])
