"""A cache in plain Python, as slow as it is simple: lists, and the victim by looking at everything."""

from __future__ import annotations

import numpy as np


class PlainCache:
    """LRU or LFU over all layers; hits, loads, and loaded guesses that left unused, as counted."""

    def __init__(self, slots: int, by_use: bool, filled: list[tuple[int, int]] = []) -> None:  # noqa: B006 - read only
        self.slots, self.by_use = slots, by_use
        self.held = list(filled)  # least recently touched first
        self.uses: dict[tuple[int, int], int] = {}
        self.unused: set[tuple[int, int]] = set()
        self.hits = self.loads = self.wasted = 0

    def visit(self, layer: int, guesses: list[int], chosen: list[int]) -> None:
        """One layer of one token."""
        busy: set[tuple[int, int]] = set()
        for expert in reversed(guesses):
            self._bring((layer, expert), busy, is_guess=True)
        for expert in chosen:
            self.hits += (layer, expert) in self.held
            self._bring((layer, expert), busy, is_guess=False)

    def _bring(self, key: tuple[int, int], busy: set[tuple[int, int]], is_guess: bool) -> None:
        if key not in self.held:
            self.loads += 1
            if self.slots == 0:
                return
            if len(self.held) == self.slots:
                idle = [k for k in self.held if k not in busy] or self.held
                leaves = min(idle, key=lambda k: self.uses.get(k, 0)) if self.by_use else idle[0]
                self.held.remove(leaves)
                self.wasted += leaves in self.unused
                self.unused.discard(leaves)
            if is_guess:
                self.unused.add(key)
        else:
            self.held.remove(key)
        self.held.append(key)
        busy.add(key)
        if not is_guess:
            self.uses[key] = self.uses.get(key, 0) + 1
            self.unused.discard(key)


def counted(caches: list[PlainCache], chosen_TLK: np.ndarray, guesses_TLG: np.ndarray) -> list[int]:
    """Hits, loads and wasted guesses of one cache, or of one for each layer."""
    for row_LK, guess_LG in zip(chosen_TLK.tolist(), guesses_TLG.tolist(), strict=True):
        for layer, (chosen, guesses) in enumerate(zip(row_LK, guess_LG, strict=True)):
            caches[layer % len(caches)].visit(layer, guesses, chosen)
    return [sum(getattr(cache, name) for cache in caches) for name in ("hits", "loads", "wasted")]
