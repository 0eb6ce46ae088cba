"""How many experts a prompt's tokens make active: popular ones are asked for again and again, others never.

If the most frequent share s of a layer's experts meets 1 - (1 - s)^skew of the demand, the expert at rank share s is
asked for skew (1 - s)^(skew - 1) times as often as on average; over n tokens it stays idle with the exponential of that
times n k / E. Within one text demand is more skewed than over many. One skew stands for all models; the two recorded
ones lie on either side of it, within a seventh of their experts.
"""

from __future__ import annotations

import math

from ..geometry import MoEGeometry

TEXT_SKEW = 2.5
_POINTS = 64


def active_in_prompt(geometry: MoEGeometry, tokens: int, resident: int = 0) -> float:
    """Expected active experts of a layer over so many tokens of one text, but for the `resident` most popular ones."""
    assignments = tokens * geometry.top_k / geometry.num_experts
    rare = 1 - resident / geometry.num_experts
    ranks = (rare * (i + 0.5) / _POINTS for i in range(_POINTS))
    idle = sum(math.exp(-assignments * TEXT_SKEW * rank ** (TEXT_SKEW - 1)) for rank in ranks) / _POINTS
    least = 0.0 if resident else float(min(geometry.top_k, geometry.num_experts))
    return max(least, rare * geometry.num_experts * (1 - idle))
