"""A layer under way: what its lanes were given, and what each expert has contributed so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..accelerators.base import Event
from ..accelerators.host_memory import Here
from ..types import Lane, Plan, Run
from .layer_work import LayerInput
from .parts import DeviceParts, HostParts, Send

NOT_LAUNCHED: Event = Here(None)
GPU = Lane.GPU  # a global costs a third of an enum's attribute


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
    """The calls of a layer's lanes, and what they contribute.

    `opening`: the GPU lane's call, where it is work of its own before an expert that waits for a copy.
    """

    plan: Plan
    work: LayerInput
    active: list[int]
    counts: list[int]
    parts: HostParts | DeviceParts
    calls: list[LaneCall] = field(default_factory=list)
    opening: Event | None = None

    @classmethod
    def begin(cls, plan: Plan, work: LayerInput, send: Send | None) -> LayerUnderWay:
        """Sort the tokens by expert. `send` brings a host tensor to where a device weights results; None: the host."""
        active, counts = plan.demand.active, plan.demand.tokens
        parts = HostParts(work, counts) if send is None else DeviceParts(work, counts, send)
        return cls(plan, work, active, counts, parts)

    def put(self, call: LaneCall, rows: torch.Tensor) -> None:
        """The results of a call's experts, one below the other."""
        parts = rows.split_with_sizes([self.counts[at] for at in call.at_N])
        for at, part in zip(call.at_N, parts, strict=True):
            self.parts.put(at, part)


def lane_calls(runs: Sequence[Run], active: Sequence[int], copy_of: Mapping[int, Event]) -> list[LaneCall]:
    """The calls for a plan's runs, in order; `copy_of`: what experts on the GPU wait for.

    The CPU lane has one. The GPU lane has one for what waits for no copy; each expert that does is one by itself, and
    what the plan wants after it does not overtake it.
    """
    place_of = dict(zip(active, range(len(active)), strict=True))
    on_cpu, residents, calls = LaneCall(False, []), LaneCall(True, []), list[LaneCall]()
    for (_, e), _, lane, _ in runs:
        if lane is not GPU:
            on_cpu.at_N.append(place_of[e])
        elif e in copy_of:
            calls.append(LaneCall(True, [place_of[e]], copy_of[e]))
            residents = LaneCall(True, [])
        else:
            if not residents.at_N:
                calls.append(residents)
            residents.at_N.append(place_of[e])
    return [*calls, on_cpu] if on_cpu.at_N else calls
