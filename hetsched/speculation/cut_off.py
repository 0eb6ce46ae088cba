"""The cut-off layer of what is said of a draft: the last whose copies can be there before its router speaks.

SP-MoE (arXiv 2510.10302) bounds its prefetches so. A plain function, which kernels compile too.

Shapes: L layers.
"""

from __future__ import annotations

from ..types import FloatArray


def last_in_time(missing_L: FloatArray, copy_s: float, link_s: float, due_s: float, layer_s: float) -> int:
    """The last layer by whose router all copies up to it have ended; -1: not even the first layer's.

    `missing_L`: copies of each layer. The link is busy for `link_s`, the first router speaks in `due_s`, each other
    `layer_s` later.
    """
    last = -1
    for l in range(len(missing_L)):
        link_s += copy_s * missing_L[l]
        if link_s <= due_s + l * layer_s:
            last = l
    return last
