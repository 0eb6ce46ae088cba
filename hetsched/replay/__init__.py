"""Replay: strategies on recorded routing, at equal bytes, beside what no strategy could beat.

`compare(trace, model, hardware=[...], gpu_fractions=[...], strategies=[...])` is the one call most readers want.
"""

from .cell import Row
from .drafts import AUTO, Draft, Speculation
from .result import BoundRow, Comparison, Failure
from .single import Report, replay_one
from .speculation import SpeculationComparison, compare_speculation
from .study import MEASURED
from .sweep import compare

__all__ = [
    "AUTO",
    "MEASURED",
    "BoundRow",
    "Comparison",
    "Draft",
    "Failure",
    "Report",
    "Row",
    "Speculation",
    "SpeculationComparison",
    "compare",
    "compare_speculation",
    "replay_one",
]
