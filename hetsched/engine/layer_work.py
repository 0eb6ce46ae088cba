"""One layer's work: what the router hands over, which rows each expert gets, and what of it is under way.

Shapes: T tokens, K top-k, H hidden, N active experts, S = tokens sorted by expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from ..accelerators.base import Event
from ..accelerators.host_memory import Here
from ..scheduler import Scheduler
from ..types import Demand, FloatArray, Phase, Plan
from .cpu_layer import TokenOrder, add_in_order, first_rows, order_of_choices, rows_of_choices, sort_by_expert
from .expert_ffn import PLAIN, Arithmetic

NOT_LAUNCHED: Event = Here(None)


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


@dataclass(eq=False)
class LaneCall:
    """Experts that a lane computes in one call. `at_N`: their places in the layer's order.

    `copy`: what an expert on the GPU waits for. `again`: this is the CPU lane's second try.
    """

    on_gpu: bool
    at_N: list[int]
    copy: Event | None = None
    again: bool = False
    event: Event = NOT_LAUNCHED


@dataclass(eq=False)
class LayerUnderWay:
    """A layer under way: its experts in order, the calls of its lanes, and how many copies it started.

    `part_SH`: the experts' weighted results where the activations are, in the dtype of the sum; whoever computes an
    expert fills its rows. `host_rows_S`: the order's rows on the host. `opening`: the GPU lane's call, where it is work
    of its own before an expert that waits for a copy.
    """

    plan: Plan
    work: LayerInput
    order: TokenOrder
    host_rows_S: torch.Tensor
    part_SH: torch.Tensor
    copies: int
    calls: list[LaneCall] = field(default_factory=list)
    opening: Event | None = None
    elsewhere: dict[int, torch.Tensor] = field(default_factory=dict)  # parts that are not in part_SH, by their place

    @classmethod
    def begin(
        cls, plan: Plan, work: LayerInput, copies: int, send: Callable[[torch.Tensor], torch.Tensor]
    ) -> LayerUnderWay:
        """Sort the tokens by expert, and make room. `send` brings a host tensor to where the activations are."""
        active, counts = plan.demand.active, plan.demand.tokens
        weights_TK = work.weights_TK.detach() if work.weights_TK.requires_grad else work.weights_TK
        if work.hidden_TH.is_cpu:
            order = sort_by_expert(work.ids_TK, weights_TK, active, counts)
            host_rows_S = order.rows_S
        else:
            order, host_rows_S = _sorted_elsewhere(work.ids_TK, weights_TK, active, counts, send)
        shape = host_rows_S.shape[0], work.hidden_TH.shape[1]
        part_SH = lasting(shape, work.arithmetic.sum_dtype(work.hidden_TH, weights_TK), work.hidden_TH.device)
        return cls(plan, work, order, host_rows_S, part_SH, copies)

    def rows(self, at: int, hidden_TH: torch.Tensor) -> torch.Tensor:
        """An expert's rows of the hidden states, on the host or where they are; one token needs no gathering."""
        count = self.order.counts[at]
        if count == hidden_TH.shape[0] == 1:
            return hidden_TH
        rows_S = self.order.rows_S if hidden_TH is self.work.hidden_TH else self.host_rows_S
        begin = sum(self.order.counts[:at])
        return hidden_TH[rows_S[begin : begin + count]]

    def pairs(self, at_N: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Some experts' rows [P] and router weights [P, 1], where the activations are."""
        rows_S, weights_S1, counts = self.order.rows_S, self.order.weights_S1, self.order.counts
        if len(at_N) == len(counts) and list(at_N) == sorted(at_N):
            return rows_S, weights_S1
        rows_N, weights_N = rows_S.split_with_sizes(counts), weights_S1.split_with_sizes(counts)
        return torch.cat([rows_N[at] for at in at_N]), torch.cat([weights_N[at] for at in at_N])

    def put(self, at_N: Sequence[int], parts: Iterable[torch.Tensor]) -> None:
        """Weight the results of these experts, one after another, and put them into their rows."""
        counts = self.order.counts
        weights_N, target_N = self.order.weights_S1.split_with_sizes(counts), self.part_SH.split_with_sizes(counts)
        for at, part in zip(at_N, parts, strict=True):
            torch.mul(part, weights_N[at], out=target_N[at])


def lasting(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An undefined matrix that threads may write to, also those that are not in their caller's inference mode."""
    if not torch.is_inference_mode_enabled():
        return torch.empty(shape, dtype=dtype, device=device)
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, device=device)


def _sorted_elsewhere(
    ids_TK: torch.Tensor,
    weights_TK: torch.Tensor,
    active: list[int],
    counts: list[int],
    send: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[TokenOrder, torch.Tensor]:
    """The order for activations on a device, and its rows on the host. One token needs nothing sent."""
    order, num_tokens = order_of_choices(ids_TK, sum(counts)), ids_TK.shape[0]
    host_rows_S = rows_of_choices(order, num_tokens)
    if num_tokens == 1:
        columns = weights_TK.unbind(1)
        weights_S1 = torch.cat([columns[k] for k in order.tolist()]).unsqueeze(1)
        return TokenOrder(active, counts, first_rows(len(order), weights_TK.device), weights_S1), host_rows_S
    order = send(order)
    weights_S1 = weights_TK.t().reshape(-1, 1).index_select(0, order)
    return TokenOrder(active, counts, rows_of_choices(order, num_tokens), weights_S1), host_rows_S


def lane_calls(
    runs: Sequence[tuple[int, bool]], active: Sequence[int], copy_of: Callable[[int], Event | None]
) -> list[LaneCall]:
    """The calls for runs (expert, whether on the GPU) in order; `copy_of`: what an expert on the GPU waits for.

    The CPU lane has one. The GPU lane has one for what waits for no copy; each expert that does is one by itself, and
    what the plan wants after it does not overtake it.
    """
    place_of = {e: at for at, e in enumerate(active)}
    on_cpu, residents, calls = LaneCall(False, []), LaneCall(True, []), list[LaneCall]()
    for e, on_gpu in runs:
        if not on_gpu:
            on_cpu.at_N.append(place_of[e])
        elif (copy := copy_of(e)) is not None:
            calls.append(LaneCall(True, [place_of[e]], copy))
            residents = LaneCall(True, [])
        else:
            if not residents.at_N:
                calls.append(residents)
            residents.at_N.append(place_of[e])
    return [*calls, on_cpu] if on_cpu.at_N else calls


def demand_of(work: LayerInput, scheduler: Scheduler, phase: Phase | None) -> Demand:
    """What the router asks of each expert, with weights where the policy uses them; ids of no expert here are left out.

    A `phase` that nobody knows is decode for one token, prefill for more.
    """
    if phase is None:
        phase = Phase.DECODE if work.hidden_TH.shape[0] == 1 else Phase.PREFILL
    ids_TK, here, experts = work.ids_TK, work.module.num_experts, scheduler.geometry.num_experts
    weights_E = _weights_E(work, here, experts) if scheduler.traits.uses_weights else None
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


def cast_dtype(device: torch.device) -> torch.dtype | None:
    """What torch.autocast casts products on this device to in the calling thread; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The same casts in another thread. Without autocast's cache: an expert's weights are used once a layer."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=False)


def summed(under_way: LayerUnderWay) -> torch.Tensor:
    """A layer's parts added by ascending expert, in their dtype: [T, H]."""
    part_SH, (_, counts, rows_S, _) = under_way.part_SH, under_way.order
    out_TH = torch.zeros(under_way.work.hidden_TH.shape, dtype=part_SH.dtype, device=part_SH.device)
    if not under_way.elsewhere and part_SH.is_cpu:
        add_in_order(out_TH, rows_S, part_SH, counts)
        return out_TH
    parts = list(part_SH.split_with_sizes(counts))
    for at, part in under_way.elsewhere.items():
        parts[at] = part.to(part_SH.dtype)
    for part, rows in zip(parts, rows_S.split_with_sizes(counts), strict=True):
        if part.shape[0] == out_TH.shape[0] == 1:
            out_TH.add_(part)
        else:
            out_TH.index_add_(0, rows, part)
    return out_TH
