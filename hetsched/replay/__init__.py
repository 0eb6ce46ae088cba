"""Replay: strategies on recorded routing, at equal bytes, beside what no strategy could beat.

`compare(trace, model, hardware=[...], gpu_fractions=[...], strategies=[...])` is the one call most readers want.
"""

from .cell import Row
from .result import BoundRow, Comparison, Failure
from .single import Report, replay_one
from .study import MEASURED
from .sweep import compare

__all__ = ["MEASURED", "BoundRow", "Comparison", "Failure", "Report", "Row", "compare", "replay_one"]
