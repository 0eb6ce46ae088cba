"""One layer's work: what the router hands over, which rows each expert gets, and what of it is under way.

Shapes: T tokens, K top-k, H hidden, n rows of one expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..accelerators.base import Event
from ..scheduler import Scheduler
from ..types import Demand, ExpertId, FloatArray, Lane, Phase, Plan, Run
from .expert_ffn import PLAIN, Arithmetic


@cache
def _first_row(device: torch.device) -> torch.Tensor:
    """The row number of a step's only token; nobody writes to it."""
    with torch.inference_mode(False):
        return torch.zeros(1, dtype=torch.int64, device=device)


class LayerInput(NamedTuple):
    """What the router hands to one layer's experts: `hidden_TH`, expert `ids_TK` and router `weights_TK`.

    An id of num_experts or more belongs to no expert here and adds nothing. `arithmetic`: where the module rounds.
    `cast_to`: what torch.autocast casts products to in the caller's thread; None without. `entered_s`: what
    time.thread_time() said at the door; None where nobody looked.
    """

    layer: int
    module: Any
    hidden_TH: torch.Tensor
    ids_TK: torch.Tensor
    weights_TK: torch.Tensor
    arithmetic: Arithmetic = PLAIN
    cast_to: torch.dtype | None = None
    entered_s: float | None = None


class ExpertRows(NamedTuple):
    """One expert's rows and router weights ([n, 1], or [1]) where the activations are, and the rows on the host."""

    rows: torch.Tensor
    weights: torch.Tensor
    host_rows: torch.Tensor


@dataclass
class LayerUnderWay:
    """A layer under way: how many copies it started; by expert, where rows go, the event, and the copy it waits for.

    Experts that went to a lane together share an event, whose result is the part of each by its number. `lanes`: of
    each event. `call`: the GPU's call, where it is work of its own before an expert that waits for a copy.
    """

    plan: Plan
    work: LayerInput
    routed: dict[int, ExpertRows]
    copies: int
    events: dict[int, Event] = field(default_factory=dict)
    lanes: dict[Event, Lane] = field(default_factory=dict)
    awaited: dict[int, Event] = field(default_factory=dict)
    call: Event | None = None


def demand_of(work: LayerInput, scheduler: Scheduler, phase: Phase | None) -> Demand:
    """What the router asks of each expert, with weights where the policy uses them; ids of no expert here are left out.

    A `phase` that nobody knows is decode for one token, prefill for more.
    """
    if phase is None:
        phase = Phase.DECODE if work.hidden_TH.shape[0] == 1 else Phase.PREFILL
    ids_TK, here, experts = work.ids_TK, work.module.num_experts, scheduler.geometry.num_experts
    weights_E = _weights_E(work, here, experts) if scheduler.uses_weights else None
    if ids_TK.shape[0] == 1:
        active = sorted(e for e in ids_TK.tolist()[0] if e < here)
        if len(set(active)) == len(active):
            return scheduler.one_token_demand(work.layer, active, phase, weights_E)
    tokens_E = np.bincount(ids_TK.numpy().ravel(), minlength=experts)[:experts]
    tokens_E[here:] = 0  # layers may have fewer experts than others
    return scheduler.demand(work.layer, tokens_E, work.hidden_TH.shape[0], phase, weights_E)


def _weights_E(work: LayerInput, here: int, experts: int) -> FloatArray:
    """Router weight of each expert, summed over tokens: float64 [E].

    Rounded to 16 bits first, as traces hold them, so that a replay of what was recorded decides alike.
    """
    weights_TK = work.weights_TK.detach().to("cpu", torch.float16).double().numpy()
    sum_E = np.bincount(work.ids_TK.numpy().ravel(), weights_TK.ravel(), experts)[:experts].astype(np.float64)
    sum_E[here:] = 0.0
    return sum_E


def by_expert(work: LayerInput, send: Callable[[torch.Tensor], torch.Tensor]) -> dict[int, ExpertRows]:
    """What each active expert is routed, rows in the order of eager: by choice, then token.

    `send` brings a host tensor to where the activations are, if that is elsewhere.
    """
    if work.ids_TK.shape[0] == 1 and len(chosen := work.ids_TK.tolist()[0]) == len(set(chosen)):
        rows, host_rows = _first_row(work.hidden_TH.device), _first_row(work.ids_TK.device)
        weights_K = work.weights_TK.unbind(1)
        return {e: ExpertRows(rows, weights, host_rows) for e, weights in zip(chosen, weights_K, strict=True)}
    flat = work.ids_TK.T.reshape(-1)
    order = torch.argsort(flat, stable=True)
    experts, counts = torch.unique_consecutive(flat[order], return_counts=True)
    host_rows = rows = order % work.hidden_TH.shape[0]
    if not work.hidden_TH.is_cpu:
        order = send(order)
        rows = order % work.hidden_TH.shape[0]
    weights = work.weights_TK.T.reshape(-1)[order].unsqueeze(1)
    ends = counts.cumsum(0).tolist()
    spans = [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    return {
        e: ExpertRows(rows[span], weights[span], host_rows[span])
        for e, span in zip(experts.tolist(), spans, strict=True)
    }


def lane_groups(
    runs: Sequence[Run], copy_of: Callable[[ExpertId], Event | None]
) -> list[tuple[list[Run], Event | None]]:
    """Consecutive runs of a lane that wait for no copy, as one; each that waits, by itself with its copy."""
    groups: list[tuple[list[Run], Event | None]] = []
    last: Lane | None = None
    for run in runs:
        copy = copy_of(run.expert) if run.lane is Lane.GPU else None
        if copy is None and run.lane is last:
            groups[-1][0].append(run)
        else:
            groups.append(([run], copy))
        last = run.lane if copy is None else None
    return groups


def cast_dtype(device: torch.device) -> torch.dtype | None:
    """What torch.autocast casts products on this device to in the calling thread; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The same casts in another thread. Without autocast's cache: an expert's weights are used once a layer."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=False)
