"""belady: knows what will be demanded, and keeps what is demanded soonest.

Belady, "A study of replacement algorithms for a virtual-storage computer" (IBM Systems Journal 1966), MIN, with bypass:
the newcomer competes too. Of the experts that may leave and a missed one, the one whose layer next asks for it last is
left out; if that is the missed one, it runs on the CPU, since a copy would take a slot from an expert that is wanted
sooner. "Last" is in visits of layers; of experts that the same visit asks for, the visit after it decides. That gives
most hits without prefetch where a layer asks for one expert; with several, whose own hits may not leave during the
visit, brute force finds a hit more in one small case of 75. It does not give the least time: see bound.py for that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..jit import compiled, compiled_and_kept, source_stamp
from ..policy import Setting, Traits
from ..traces.trace import RoutingTrace
from ..types import IntArray
from .on_demand import OnDemand
from .on_demand_kernels import (
    LAYER,
    PASS,
    SOURCES,
    Kernel,
    Slots,
    Visits,
    begin,
    fetch,
    free_places,
    highest_first,
    is_higher,
    lowest,
    region_of,
)

NEVER = 2**62
SEEN, TOKEN, TOKENS = 0, 1, 2  # places in Future.at


class Future(NamedTuple):
    """When each expert will be asked for, in visits (step * L + layer).

    `visit_V`: of one expert after the other, ascending, each list ended by NEVER. `next_F`: place in it of an expert's
    next demand. `soon_F`, `then_F`: minus that visit, minus the one after. `step_T`: step of each token. `layers`: L.
    `at`: last pass seen, first token of the step, its tokens.
    """

    visit_V: IntArray
    next_F: IntArray
    soon_F: IntArray
    then_F: IntArray
    step_T: IntArray
    layers: int
    at: IntArray


def future_of(trace: RoutingTrace) -> Future:
    """The demand that a trace records, at its beginning. One token a step unless it says otherwise in `step_T`."""
    tokens, layers, experts = trace.num_tokens, trace.num_layers, trace.num_experts
    step_T = np.arange(tokens, dtype=np.int64)
    if trace.step_T is not None:
        step_T = np.cumsum(np.diff(trace.step_T, prepend=trace.step_T[:1]) != 0, dtype=np.int64)
    layer_L = np.arange(layers, dtype=np.int64)
    flat_R = (trace.experts_TLK + experts * layer_L[:, None]).reshape(-1)
    visit_R = np.repeat((step_T[:, None] * layers + layer_L).reshape(-1), trace.top_k)
    order_R = np.argsort(flat_R, kind="stable")
    visit_V = np.full(len(flat_R) + layers * experts, NEVER, np.int64)
    visit_V[np.arange(len(flat_R)) + flat_R[order_R]] = visit_R[order_R]
    count_F = np.bincount(flat_R, minlength=layers * experts)
    next_F = np.cumsum(count_F) - count_F + np.arange(layers * experts)
    soon_F, then_F = -visit_V[next_F], np.full(layers * experts, -NEVER)
    return Future(visit_V, next_F, soon_F, then_F, step_T, layers, np.array([-1, 0, 0], np.int64))


@compiled
def _look_ahead(rule: Future, slots: Slots, visits: Visits, r: int) -> None:
    """Find the next demand after this one of everything that visit r asks for."""
    if rule.at[SEEN] != slots.at[PASS]:
        rule.at[SEEN] = slots.at[PASS]
        rule.at[TOKEN] += rule.at[TOKENS]
        rule.at[TOKENS] = visits.num_tokens
    last = min(rule.at[TOKEN] + rule.at[TOKENS], len(rule.step_T)) - 1
    now = rule.step_T[last] * rule.layers + slots.at[LAYER]
    for f in visits.flat_RN[r]:
        while rule.visit_V[rule.next_F[f]] <= now:
            rule.next_F[f] += 1
        rule.soon_F[f] = -rule.visit_V[rule.next_F[f]]
        rule.then_F[f] = -rule.visit_V[rule.next_F[f] + 1] if rule.soon_F[f] > -NEVER else -NEVER


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Future, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            _look_ahead(rule, slots, visits, r)
            if missing == 0:
                continue
            highest_first(visits.new_N, missing, rule.soon_F, rule.then_F)  # the soonest
            region = region_of(slots, visits.new_N[0])
            free = min(missing, free_places(slots, region))
            found = lowest(slots, visits, region, rule.soon_F, rule.then_F, missing - free)
            for i in range(free + found):
                new = visits.new_N[i]
                victim = -1 if i < free else visits.lowest_N[i - free]
                if rule.soon_F[new] == -NEVER or (victim >= 0 and not is_higher(rule.soon_F, rule.then_F, new, victim)):
                    break
                fetch(slots, visits, r, new, victim)

    return serve


class Belady(OnDemand):
    """Belady's rule with bypass; needs `Machine.future`, the trace to come from the first step on."""

    name = "belady"
    traits = Traits(family="clairvoyant", clairvoyant=True)
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def rule(self, setting: Setting, slots: Slots) -> Future:
        """The future. Raises InputError where there is none or it is another model's."""
        future, shape = setting.future, setting.geometry
        if future is None:
            raise InputError("belady needs to know the future; replay a trace, or choose another policy")
        if (future.num_layers, future.num_experts) != (shape.num_layers, shape.num_experts):
            raise InputError(
                f"belady's future is not of {shape.name}: it has {future.num_layers} layers of {future.num_experts}"
            )
        return future_of(future)
