"""Where a scheduler goes wrong: profiles that lie, routing without a habit, a forecaster that is sure and wrong, drift.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..geometry import MoEGeometry
from ..machine.drift import PARTS, Drift, TrueMachine, slowed
from ..machine.profile import HardwareProfile
from ..shadow.watchdog import Move
from ..traces.patterns import PATTERNS
from ..traces.synth import SynthParams, generate
from ..traces.trace import RoutingTrace
from ..types import Phase

FITTED_TOKENS = 256  # that placements and forecasters begin with
LIE = 10.0
CHARGE_S = 3e-5  # of every decision
SKEW, LOCALITY, DRIFT = 1.1, 0.25, 0.45  # of the routing where the routing is not what is wrong
WRONG = "hetsched.testing.wrong_forecaster:ConfidentlyWrong"


class Case(NamedTuple):
    """What is replayed, what is known of before, what the scheduler believes of its machine, and what is true."""

    name: str
    trace: RoutingTrace
    history: RoutingTrace
    believed: HardwareProfile
    true: TrueMachine
    forecaster: Any = None


def row_of(case: str, simple_s: Mapping[str, float], own_s: float, moves: Sequence[Move]) -> dict[str, Any]:
    """A row of the document: hetsched's seconds beside those of the best simple strategy."""
    best = min(simple_s, key=lambda name: simple_s[name])
    return {
        "case": case,
        "best_simple": best,
        "best_simple_s": simple_s[best],
        "hetsched_s": own_s,
        "ratio": own_s / simple_s[best],
        "switches": sum(move.is_switch for move in moves),
    }


def cases(geometry: MoEGeometry, machine: HardwareProfile, steps: int, seed: int) -> Iterator[Case]:
    """All cases on one machine, of so many decoded tokens each."""
    shape, true = (geometry.num_layers, geometry.num_experts, geometry.top_k), TrueMachine(machine)
    usual = habitual(shape, FITTED_TOKENS + steps, seed)
    parts = _tokens(usual, slice(FITTED_TOKENS, None)), _tokens(usual, slice(0, FITTED_TOKENS))
    yield Case("a true profile", *parts, machine, true)
    for part in PARTS:
        for factor, said in ((LIE, "slower"), (1 / LIE, "faster")):
            yield Case(f"{part} believed {LIE:g} times {said}", *parts, slowed(machine, **{part: factor}), true)
    for name, made in PATTERNS.items():
        yield Case(name, made(shape, steps, seed), made(shape, FITTED_TOKENS, seed + 1), machine, true)
    yield Case("a forecaster confidently wrong", *parts, machine, true, WRONG)
    lost = TrueMachine(machine, (Drift(steps // 2, link=LIE),))
    yield Case("link loses nine tenths midway", *parts, machine, lost)


def habitual(shape: tuple[int, int, int], tokens: int, seed: int) -> RoutingTrace:
    """Routing as `trace synth` makes it, in four sequences."""
    layers, experts, top_k = shape
    numbers = {"layers": layers, "experts": experts, "top_k": top_k, "tokens": tokens, "sequences": min(4, tokens)}
    params = SynthParams.uniform(**numbers, skew=SKEW, locality=LOCALITY, drift=DRIFT)
    chunks = list(generate(params, seed))
    sequence_T = np.concatenate([np.full(len(chunk_CLK), number, np.int32) for number, chunk_CLK in chunks])
    phase_T = np.full(tokens, int(Phase.DECODE), np.uint8)
    return RoutingTrace(np.concatenate([chunk_CLK for _, chunk_CLK in chunks]), sequence_T, phase_T, experts)


def _tokens(trace: RoutingTrace, which: slice) -> RoutingTrace:
    experts_TLK, sequence_T = trace.experts_TLK[which], trace.sequence_T[which]
    return replace(trace, experts_TLK=experts_TLK, sequence_T=sequence_T, phase_T=trace.phase_T[which])
