"""A layer under way: what its lanes were given, and what each expert has contributed so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..accelerators.base import Event
from ..accelerators.host_memory import Here
from ..types import Plan
from .layer_work import LayerInput
from .parts import DeviceParts, HostParts

NOT_LAUNCHED: Event = Here(None)


@dataclass(eq=False)
class LaneCall:
    """Experts that a lane computes in one call. `at_N`: their places in the layer's order.

    `copy`: what an expert on the GPU waits for. `again`: this is the CPU lane's second try.
    """

    on_gpu: bool
    at_N: Sequence[int]
    copy: Event | None = None
    again: bool = False
    event: Event = NOT_LAUNCHED


class LayerUnderWay:
    """The calls of a layer's lanes, and what they contribute.

    `opening`: the GPU lane's call, where it is work of its own before an expert that waits for a copy.
    """

    __slots__ = ("active", "calls", "counts", "opening", "parts", "plan", "tokens", "work")

    def __init__(self, plan: Plan, work: LayerInput, parts: HostParts | DeviceParts) -> None:
        demand = plan.demand
        self.plan, self.work, self.parts = plan, work, parts
        self.active, self.counts, self.tokens = demand.active, demand.tokens, demand.num_tokens
        self.calls: list[LaneCall] = []
        self.opening: Event | None = None

    def put(self, call: LaneCall, rows: torch.Tensor) -> None:
        """The results of a call's experts, one below the other."""
        parts = rows.split_with_sizes([self.counts[at] for at in call.at_N])
        for at, part in zip(call.at_N, parts, strict=True):
            self.parts.put(at, part)


def lane_calls(plan: Plan, copy_of: Mapping[int, Event]) -> list[LaneCall]:
    """The calls for a plan's runs, in order; `copy_of`: what experts on the GPU wait for.

    The CPU lane has one, the last. The GPU lane has one for what waits for no copy; each expert that does is one by
    itself, and what the plan wants after it does not overtake it.
    """
    on_gpu, on_cpu = plan.lanes()
    calls: list[LaneCall] = []
    if not copy_of:
        calls = [LaneCall(True, on_gpu)] if on_gpu else []
    else:
        residents: list[int] = []
        for at in on_gpu:
            copy = copy_of.get(plan.demand.active[at])
            if copy is not None:
                calls.append(LaneCall(True, [at], copy))
                residents = []
                continue
            if not residents:
                calls.append(LaneCall(True, residents))
            residents.append(at)
    return [*calls, LaneCall(False, on_cpu)] if on_cpu else calls
