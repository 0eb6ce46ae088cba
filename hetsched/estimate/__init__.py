"""Speeds to expect before anything runs: a model, a machine, an engine and a placement give seconds a token, by part.

Estimated, never measured: how far they are from speeds that others published stands in docs/accuracy.md.
"""

from .decode import decode
from .engine import ENGINES, Engine, engine_named
from .fit import fitting_split, n_cpu_moe
from .placement import Placement, hit_share
from .prefill import prefill
from .speculate import Speculation, speculate
from .subject import Subject, subject_of
from .times import Times
from .weights import FILES, FileWeights

__all__ = [
    "ENGINES",
    "FILES",
    "Engine",
    "FileWeights",
    "Placement",
    "Speculation",
    "Subject",
    "Times",
    "decode",
    "engine_named",
    "fitting_split",
    "hit_share",
    "n_cpu_moe",
    "prefill",
    "speculate",
    "subject_of",
]
