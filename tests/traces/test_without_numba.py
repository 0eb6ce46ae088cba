"""Compiled kernels and the same functions as plain Python give the same figures and the same synthetic tokens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import sys
if sys.argv[1] == "plain":
    sys.modules["numba"] = None  # importing it fails, as if it were not there
import json
import numpy as np
from hetsched.jit import COMPILED
from hetsched.traces.reuse import ReuseCounter
from hetsched.traces.synth import SynthParams, generate
assert COMPILED == (sys.argv[1] == "compiled")
params = SynthParams.uniform(layers=2, experts=8, top_k=3, tokens=300, sequences=3, skew=1, locality=0.4, drift=0.5)
chosen_TLK = np.concatenate([chosen for _, chosen in generate(params, 4)])
counter = ReuseCounter(16)
counter.add((chosen_TLK + np.array([[0], [8]])).astype(np.int32).ravel())
print(json.dumps([chosen_TLK.tolist(), counter.lru_D1.tolist(), counter.lfu_D1.tolist()]))
"""


def test_same_figures_without_numba() -> None:
    """In two processes, since what is compiled is decided at import."""
    pytest.importorskip("numba", reason="without numba there is only one of the two to run")
    argv = [sys.executable, "-c", PROGRAM]
    compiled, plain = (
        subprocess.run([*argv, kind], capture_output=True, text=True, check=True).stdout
        for kind in ("compiled", "plain")
    )
    assert json.loads(compiled) == json.loads(plain)
