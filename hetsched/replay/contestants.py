"""Contestants of a comparison of speculation: the systems that MoE-SpAc is compared with, by strategies of ours.

MoE-SpAc (arXiv 2603.09983) compares itself with speculative and with standard systems on one machine, at equal bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import InputError
from ..plugins import installed, installed_name, plugin
from .strategies import ALL, GROUP, Strategy

OURS = "hetsched"
MOE_SPAC = "MoE-SpAc"


class Contestant(NamedTuple):
    """A system, the strategy it stands for, and whether it verifies drafts or decodes token by token.

    `is_baseline`: hetsched is measured by it in the headline. `chooses`: its number of drafts may be its own choice.
    """

    system: str
    policy: str
    speculates: bool
    is_baseline: bool = True
    chooses: bool = False

    @property
    def strategy(self) -> Strategy:
        """What is replayed."""
        return Strategy(self.policy, self.policy)


PAPERS = (
    Contestant("Accelerate", "layer-stream", speculates=False),
    Contestant("llama.cpp", "layer-split", speculates=False),
    Contestant("Mixtral-Offloading", "on-demand-lru", speculates=False),
    Contestant("MoE-Infinity", "moe-infinity", speculates=False),
    Contestant("HybriMoE", "hybrimoe", speculates=False),
    Contestant("hetsched, no drafts", "hetsched", speculates=False, is_baseline=False),
    Contestant("llama.cpp, speculating", "layer-split", speculates=True),
    Contestant("SP-MoE", "sp-moe", speculates=True),
    Contestant(MOE_SPAC, "moe-spac", speculates=True, is_baseline=False),
    Contestant(OURS, "hetsched", speculates=True, is_baseline=False, chooses=True),
)


def contestants_of(strategies: str) -> tuple[list[Contestant], list[str]]:
    """Those of "all" that are installed, or of the strategies named; and a note on each that is left out.

    A named strategy that none of the paper's systems stands for runs both ways and counts in no headline. Raises
    InputError for unknown names.
    """
    have = set(installed(GROUP))
    if strategies.strip().lower() == ALL:
        absent = [c for c in PAPERS if c.policy not in have]
        return [c for c in PAPERS if c.policy in have], [f"{c.system} is left out: no {c.policy} here" for c in absent]
    names = [installed_name(GROUP, name) for name in re.split(r"[,\s]+", strategies) if name]
    if not names:
        raise InputError("no strategy was named; name at least one, or 'all'")
    for name in names:
        plugin(GROUP, name)
    known = {c.policy for c in PAPERS}
    both = [(name, way) for name in dict.fromkeys(names) if name not in known for way in (False, True)]
    others = [Contestant(f"{n}{', speculating' if way else ''}", n, way, False, chooses=way) for n, way in both]
    return [c for c in PAPERS if c.policy in names] + others, []
