"""How much a text repeats itself, and the prompts on which models are compared in that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hetsched.demo_model.calibration import SEED
from hetsched.demo_model.prompts import HELD_OUT, chat_prompts

TOKENS = 120  # of each text


def held_out_prompts() -> list[str]:
    """Prompts that no calibration chat asks."""
    return chat_prompts(SEED)[-HELD_OUT:]


def distinct_share(tokens: Sequence[int], n: int = 2) -> float:
    """Different n-grams of a text over all of them (distinct-n; Li et al., NAACL 2016): 1 where none comes twice."""
    grams = _grams(tokens, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated_share(tokens: Sequence[int], n: int = 4) -> float:
    """Share of a text's tokens that lie in an n-gram which the text has more than once."""
    grams = _grams(tokens, n)
    counts = Counter(grams)
    inside = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
    return len(inside) / len(tokens) if tokens else 0.0


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
