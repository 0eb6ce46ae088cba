"""The guard's compiled arithmetic gives the bits of a plain oracle, and refuses what that refuses."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hetsched.dispatch.instances import KINDS, random_problem
from hetsched.dispatch.problem import DispatchProblem, Verdict, frozen
from hetsched.errors import InputError
from hetsched.jit import announced, source_stamp
from hetsched.testing.dispatch_problems import degenerate_problems
from tests.oracles import plain_judge


def test_verdicts_are_the_same_bits() -> None:
    """Random choices, most of them infeasible, on every kind of problem and on the corners."""
    rng = np.random.default_rng(4)
    problems = [random_problem(rng, size, kind) for size, kind in product((1, 5, 12, 60), KINDS)]
    feasible = 0
    for problem in [*problems, *degenerate_problems().values()]:
        for _ in range(30):
            allowed = np.where(np.isinf(problem.ready_s_N), 2, 1) * rng.integers(0, 2, problem.size)
            random_N = np.where(rng.random(problem.size) < 0.02, rng.integers(-1, 4, problem.size), allowed)
            choice_N = random_N.astype(np.int8)
            found = problem.verdict(choice_N)
            assert found == plain_judge.verdict(problem, choice_N)
            assert found.feasible == problem.is_feasible(choice_N)
            assert found.makespan_s == problem.makespan_s(choice_N)
            assert found.prices_s == problem.prices_s(choice_N)
            assert found.makespan_s + found.prices_s == problem.objective_s(choice_N)
            feasible += found.feasible
    assert 200 < feasible < 30 * (len(problems) + 10)


@pytest.mark.parametrize(
    "choice_N",
    [
        None,
        "GPU",
        np.zeros(3, np.int8),
        np.zeros((6, 1), np.int8),
        np.full(6, 2.0),
        np.full(6, np.nan),
        np.full(6, 257),
        np.full(6, "1"),
    ],
)
def test_a_choice_of_any_kind_is_judged(choice_N: object) -> None:
    """Whatever a solver hands back, there is a verdict."""
    problem = random_problem(np.random.default_rng(2), 6, "different")
    assert problem.verdict(choice_N) == plain_judge.verdict(problem, choice_N)  # type: ignore[arg-type]


def test_views_and_read_only_choices_are_judged() -> None:
    """Every second element of an array that may not be written."""
    problem = random_problem(np.random.default_rng(2), 6, "different")
    choice_N = np.repeat(problem.incumbent(), 2)[::2]
    choice_N.setflags(write=False)
    assert problem.verdict(choice_N) == plain_judge.verdict(problem, choice_N)
    assert problem.verdict(choice_N).feasible


COLUMNS = ("gpu_s_N", "cpu_s_N", "utility_N", "copy_s_N", "ready_s_N")
OUT_OF_RANGE = [
    *product(COLUMNS, (math.nan, -1e-9)),
    *product(COLUMNS[:3], (math.inf,)),
    *product(("victim_price_V",), (math.nan, -1.0, math.inf)),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
@pytest.mark.parametrize("place", [0, 5])
def test_one_bad_number_names_its_field(field: str, value: float, place: int) -> None:
    """At either end of every array."""
    columns = {name: np.full(6, 0.5) for name in (*COLUMNS, "victim_price_V")}
    assert plain_judge.well_formed(DispatchProblem(**columns))
    DispatchProblem(**columns).validate()
    columns[field][place] = value
    assert not plain_judge.well_formed(DispatchProblem(**columns))
    with pytest.raises(InputError, match=field):
        DispatchProblem(**columns).validate()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["link_free_s", "roundtrip_s", "gpu_call_s"])
def test_one_bad_scalar_names_its_field(field: str, value: float) -> None:
    """Seconds before the link is free, of the round trip, and of the GPU's call."""
    good = random_problem(np.random.default_rng(2), 6, "different")
    with pytest.raises(InputError, match=field):
        replace(good, **{field: value}).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpu_s_N", [1.0] * 6),
        ("cpu_s_N", np.array(["1"] * 6)),
        ("copy_s_N", None),
        ("gpu_s_N", np.array(1.0)),
        ("victim_price_V", [0.0]),
        ("link_free_s", "soon"),
        ("roundtrip_s", None),
        ("gpu_call_s", [0.0]),
    ],
)
def test_other_types_name_their_field(field: str, value: object) -> None:
    """Lists, words and nothing are no vectors of seconds."""
    good = random_problem(np.random.default_rng(2), 6, "different")
    with pytest.raises(InputError, match=field):
        replace(good, **{field: value}).validate()


def test_whole_numbers_are_seconds_too() -> None:
    """Integer arrays and integer seconds are read as floats."""
    ones = frozen(np.ones(3), np.int64)
    problem = DispatchProblem(ones, ones, ones, frozen(np.zeros(3), np.int64), ones, ones[:0], 0, 1)  # type: ignore[arg-type]
    assert problem.packed.dtype == np.float64
    assert problem.verdict(np.array([1, 1, 0], np.int8)) == Verdict(True, 2.0, 0.0, 3.0)


def test_slow_work_is_announced_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """And quick work is not; standard output stays free for documents."""
    with announced("quick", after_s=60.0):
        pass
    out, err = "", ""
    with announced("slow", after_s=0.0):
        while not err.endswith("\n"):  # until it is said; else pytest's own timeout ends us
            time.sleep(0.001)
            said = capfd.readouterr()
            out, err = out + said.out, err + said.err
    assert (out, err) == ("", "slow\n")


def test_the_stamp_knows_its_sources() -> None:
    """Another set of modules, another stamp; a module that is not there is an error."""
    assert source_stamp("hetsched.dispatch.judge") == source_stamp("hetsched.dispatch.judge")
    assert source_stamp("hetsched.dispatch.judge") != source_stamp("hetsched.dispatch.problem")
    with pytest.raises(ModuleNotFoundError, match="absent"):
        source_stamp("hetsched.absent")
