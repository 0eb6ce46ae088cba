"""From risk differences to a steering towards set A: its experts on, those of set B off."""

from __future__ import annotations

from .difference import Difference
from .file import Forced


def strongest(found: Difference, top: int, top_k: int) -> dict[int, Forced]:
    """The `top` largest differences as forced experts by layer: on where A chooses more, off where B does.

    At most `top_k` of a layer are forced on, and as many left that are not off; weaker ones beyond that are passed over
    for the next in rank.
    """
    experts = found.risk_LE.shape[1]
    on: dict[int, list[int]] = {}
    off: dict[int, list[int]] = {}
    taken = 0
    for layer, expert in found.ranked():
        side, most = (on, top_k) if found.risk_LE[layer, expert] > 0 else (off, experts - top_k)
        chosen = side.setdefault(layer, [])
        if taken < top and len(chosen) < most:
            chosen.append(expert)
            taken += 1
    layers = {
        layer: Forced(tuple(sorted(on.get(layer, ()))), tuple(sorted(off.get(layer, ())))) for layer in {*on, *off}
    }
    return {layer: forced for layer, forced in sorted(layers.items()) if any(forced)}
