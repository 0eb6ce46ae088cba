"""Hypothesis strategies and degenerate cases of dispatch problems.

Shapes: N experts under decision, V victims.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hetsched.dispatch.instances import KINDS, random_problem
from hetsched.dispatch.problem import DispatchProblem, frozen

_MS = st.one_of(st.just(0.0), st.integers(1, 4).map(float), st.floats(1e-3, 4.0))
_READY_MS = st.one_of(st.just(0.0), st.just(np.inf), st.just(np.inf), st.floats(1e-3, 4.0))
_COPY_MS = st.one_of(_MS, _MS, _MS, st.just(np.inf))


@st.composite
def dispatch_problems(draw: st.DrawFn, max_size: int = 7) -> DispatchProblem:
    """A small problem: zeros, ties, free-standing values, experts in flight and some that cannot be fetched."""
    size = draw(st.integers(0, max_size))

    def column(values: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(values, min_size=size, max_size=size))

    columns = [column(_MS), column(_MS), column(_COPY_MS), column(_READY_MS), column(_MS)]
    prices = sorted(draw(st.lists(_MS, max_size=max_size + 1)))
    gpu, cpu, copy, ready, utility, price = (frozen(1e-3 * np.array(v, float)) for v in (*columns, prices))
    link_free_s, roundtrip_s, gpu_call_s = (1e-3 * draw(_MS) for _ in range(3))
    return DispatchProblem(gpu, cpu, copy, ready, utility, price, link_free_s, roundtrip_s, gpu_call_s)


@st.composite
def realistic_problems(draw: st.DrawFn, max_size: int = 12) -> DispatchProblem:
    """A problem as hetsched.dispatch.instances draws them, of any kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_problem(rng, draw(st.integers(1, max_size)), draw(st.sampled_from(KINDS)))


def degenerate_problems() -> dict[str, DispatchProblem]:
    """The corners, by name: each must be answered like any other problem."""
    base = random_problem(np.random.default_rng(1), 6, "different")
    nothing = frozen([])
    unfetchable = frozen(np.full(6, np.inf))
    huge = base.cpu_s_N.copy()
    huge[2] = 1e6
    one_too_large = base.copy_s_N.copy()
    one_too_large[3] = np.inf
    return {
        "no actives": DispatchProblem(nothing, nothing, nothing, nothing, nothing, frozen([0.0, 1e-3])),
        "all resident": replace(base, ready_s_N=frozen(np.zeros(6))),
        "all missing": replace(base, ready_s_N=unfetchable),
        "one slot": replace(base, ready_s_N=unfetchable, victim_price_V=frozen([0.0])),
        "no slot": replace(base, ready_s_N=unfetchable, victim_price_V=nothing),
        "zero bandwidth": replace(base, copy_s_N=unfetchable),
        "huge cost": replace(base, cpu_s_N=frozen(huge)),
        "huge prices": replace(base, victim_price_V=frozen([1e6, 2e6])),
        "expert larger than the budget": replace(base, copy_s_N=frozen(one_too_large)),
        "everything free": replace(
            base, gpu_s_N=frozen(np.zeros(6)), cpu_s_N=frozen(np.zeros(6)), copy_s_N=frozen(np.zeros(6))
        ),
        "all in flight": replace(base, ready_s_N=frozen(np.linspace(1e-3, 2e-3, 6))),
        "busy link": replace(base, link_free_s=1.0),
        "no call": replace(base, gpu_call_s=0.0),
        "a call that never pays": replace(base, gpu_call_s=1e6),
    }
