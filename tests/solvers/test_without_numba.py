"""`exact` gives the same answers as plain Python, where numba is not installed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["numba"] = None  # importing it fails, as if it were not there
import numpy as np
from hetsched.instances import random_problem
from hetsched.solver import Status
from hetsched_solvers.brute import Brute
from hetsched_solvers.exact import Exact
from hetsched.jit import COMPILED
assert not COMPILED
exact, rng = Exact(), np.random.default_rng(0)
for size in (0, 1, 3, 5, 7):
    problem = random_problem(rng, size)
    found = exact.solve(problem)
    assert found.status is Status.OPTIMAL
    assert abs(found.objective_s - Brute().solve(problem).objective_s) < 1e-12
problem = random_problem(rng, 40)
assert problem.is_feasible(exact.solve(problem).choice_N)
"""


def test_same_answers_without_numba() -> None:
    """numba makes `exact` fast; it must not make it right."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
