"""The clairvoyant bound where its value is known: by hand, by another formula, or by comparison."""

from __future__ import annotations

import subprocess
import sys
from math import inf

import numpy as np
import pytest

from hetsched.bound.clairvoyant import SOLVERS, all_resident_bound, clairvoyant_bound
from hetsched.bound.lp import LinearProgram
from hetsched.errors import InputError
from tests.replay.flat_cost import FlatCost, random_trace, steps_of, trace_of

ROUND = FlatCost(dense=1.0, gpu=1.0, cpu=4.0, copy=2.0, roundtrip=0.5)


def bound_s(trace, cost, slots, **options):
    return float(clairvoyant_bound(trace, steps_of(trace), cost, slots, **options).window_s.sum())


def test_without_memory_everything_runs_on_the_cpu():
    """Per layer: dense, one round trip, and k experts one after another."""
    trace = random_trace(np.random.default_rng(1), 6, 3, 5, 2)
    assert bound_s(trace, ROUND, 0) == pytest.approx(6 * 3 * (1.0 + 0.5 + 2 * 4.0))


@pytest.mark.parametrize("copy", [0.1, 2.0, inf])
def test_with_memory_for_all_it_is_the_roof_whatever_the_link(copy):
    """k = 3: three on the GPU take 3; two and one take max(2, 4.5): all on the GPU is best."""
    trace = random_trace(np.random.default_rng(2), 6, 3, 5, 3)
    cost = FlatCost(copy=copy, roundtrip=0.5)
    assert all_resident_bound(trace, steps_of(trace), cost).step_s == pytest.approx(3 * (1.0 + 3.0))
    assert bound_s(trace, cost, 15) == pytest.approx(6 * 3 * 4.0)


def test_the_roof_uses_the_cpu_where_that_is_faster():
    """Eight experts at 1 on the GPU or 3 on the CPU: six and two end at 6, before the GPU alone at 8."""
    trace = trace_of([[list(range(8))]], 8)
    assert all_resident_bound(trace, steps_of(trace), FlatCost(cpu=3.0)).step_s == pytest.approx(1.0 + 6.0)


def test_one_expert_is_kept_from_the_start():
    """One slot, one layer, one expert: always on the GPU, no copy."""
    trace = trace_of([[[0]]] * 5, 2)
    assert bound_s(trace, FlatCost(copy=inf), 1) == pytest.approx(5 * 2.0)


def test_without_a_link_the_best_static_choice_remains():
    """Expert 0 is used in 3 of 4 steps, expert 1 in 1; one slot: 3 steps at 1 + 1, one at 1 + 4."""
    trace = trace_of([[[0]], [[1]], [[0]], [[0]]], 2)
    assert bound_s(trace, FlatCost(copy=inf), 1) == pytest.approx(3 * 2.0 + 5.0)


def test_a_copy_has_only_the_time_there_is():
    """Two slots, experts 0, 1, 2 in turn, copies of 3. Slots are full until 1 is decided, then copying may begin.

    That leaves 1 (its run) + 1 (dense) before the last decision, so the last step waits 1 and runs 1: 7 in all, against
    6 with all resident. Fractions may shorten that, but not undo it.
    """
    trace = trace_of([[[0]], [[1]], [[2]]], 3)
    assert 6.0 + 0.1 < bound_s(trace, FlatCost(copy=3.0), 2) <= 7.0


def test_a_busy_link_sets_the_pace():
    """Two slots, six experts in turn, copies of 3, and a CPU too slow to use.

    The third expert's slot is free at the second decision, at 3. From then on the link copies without a pause, four
    times 3, and the last expert runs 1 after: 16 in all. A late copy's run may be spread over fractions, not its copy.
    """
    trace = trace_of([[[expert]] for expert in range(6)], 6)
    assert 3.0 + 4 * 3.0 <= bound_s(trace, FlatCost(copy=3.0, cpu=100.0), 2) <= 16.0


def test_a_slot_serves_two_layers_of_a_step():
    """One slot, copies of 0.5: layer 1's expert is fetched at its decision, its run ends at 1.5. All resident: 1."""
    trace = trace_of([[[0], [0]]], 1)
    assert 4.0 + 0.1 < bound_s(trace, FlatCost(copy=0.5), 1) <= 2.0 + 2.5


def test_the_tail_of_a_step_is_added_and_lends_the_link_its_time():
    """As two tests before, with 2 more after each step: the copy is there in time, so that only the sum grows."""
    trace = trace_of([[[0]], [[1]], [[2]]], 3)
    assert bound_s(trace, FlatCost(copy=3.0), 2, tail_s=2.0) == pytest.approx(6.0 + 3 * 2.0)


@pytest.mark.parametrize("tokens_per_step", [1, 4])
def test_it_grows_with_neither_bandwidth_nor_memory(tokens_per_step):
    """Over a grid of copy times and slots, each step to more of either never raises the bound."""
    trace = random_trace(np.random.default_rng(3), 24, 3, 8, 2)
    steps = steps_of(trace, tokens_per_step)
    costs = [FlatCost(copy=copy, cpu_grows=True) for copy in (inf, 6.0, 3.0, 1.5, 0.0)]
    value = np.array([[clairvoyant_bound(trace, steps, c, slots).step_s for slots in (0, 2, 6, 12, 24)] for c in costs])
    assert (np.diff(value, axis=0) <= 1e-6).all()
    assert (np.diff(value, axis=1) <= 1e-6).all()
    assert value[0, 1] > value[-1, 1] + 0.1 > value[-1, -1]


def test_solvers_agree():
    """All give prices that prove the same value, PDLP to its own accuracy."""
    trace = random_trace(np.random.default_rng(4), 12, 3, 8, 2)
    values = [bound_s(trace, ROUND, 5, solver=solver) for solver in SOLVERS]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-4)


def test_longer_windows_are_tighter():
    """A window's residency is free at its start, so that joining windows can only raise the sum."""
    trace = random_trace(np.random.default_rng(5), 32, 2, 8, 2)
    values = [bound_s(trace, FlatCost(copy=9.0), 4, window_steps=steps) for steps in (2, 8, 32)]
    assert values[0] < values[1] < values[2]


def test_it_is_never_below_the_roof():
    trace = random_trace(np.random.default_rng(6), 32, 3, 8, 2)
    options = {"window_steps": 8, "max_windows": 2}
    roof = all_resident_bound(trace, steps_of(trace), ROUND, **options)
    bound = clairvoyant_bound(trace, steps_of(trace), ROUND, 6, **options)
    assert (bound.windows == roof.windows).all()
    assert (bound.window_s >= roof.window_s - 1e-9).all()


def test_windows_are_aligned_and_spread():
    """100 steps in windows of 16: six whole ones and a rest; a few asked for are whole and reach the ends."""
    trace = trace_of([[[0]]] * 100, 1)
    everything = all_resident_bound(trace, steps_of(trace), ROUND)
    assert everything.begin_S.tolist() == [0, 16, 32, 48, 64, 80, 96]
    assert everything.end_S[-1] == 100
    assert everything.steps.tolist() == list(range(100))
    few = all_resident_bound(trace, steps_of(trace), ROUND, max_windows=2)
    assert few.windows.tolist() == [[0, 16], [80, 96]]


def test_any_prices_give_a_bound():
    """x >= 1 at cost 1: price 1 proves 1, too low a price less, and a price of the wrong sign nothing at all."""
    one = np.ones(1)
    zero = np.zeros(1, int)
    program = LinearProgram(one, 5 * one, one, inf * one, zero, zero, one)
    assert [program.dual_bound(np.array([price])) for price in (1.0, 0.5, -3.0)] == [1.0, 0.5, 0.0]
    assert program.dual_bound(np.array([1.2])) == pytest.approx(1.2 - 0.2 * 5)


def test_bad_arguments_say_what_is_allowed():
    trace = trace_of([[[0]]], 1)
    for options, names in (({"solver": "abacus"}, "highs"), ({"window_steps": 0}, "at least 1")):
        with pytest.raises(InputError, match=names):
            clairvoyant_bound(trace, steps_of(trace), ROUND, 1, **options)
    with pytest.raises(InputError, match="num_slots is -1"):
        clairvoyant_bound(trace, steps_of(trace), ROUND, -1)


def test_importing_it_imports_no_solver():
    code = "import sys, hetsched.bound.clairvoyant; sys.exit('ortools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
