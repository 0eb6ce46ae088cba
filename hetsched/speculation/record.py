"""Record: what speculation came to."""

from __future__ import annotations

from typing import Any


class Record:
    """Counts of steps and of drafts; the three figures that reports show are properties."""

    def __init__(self) -> None:
        self.steps = self.speculated = self.drafted = self.accepted = 0
        self.step_s = self.draft_s = 0.0

    def add(self, drafted: int, accepted: int, step_s: float, draft_s: float) -> None:
        """One step: its drafts, those kept, its seconds and those of drafting before it."""
        self.steps += 1
        self.speculated += drafted > 0
        self.drafted += drafted
        self.accepted += accepted
        self.step_s += step_s
        self.draft_s += draft_s

    @property
    def emitted(self) -> int:
        """Tokens of the text: one a step and the accepted drafts."""
        return self.steps + self.accepted

    @property
    def acceptance(self) -> float:
        """Share of drafts that were kept; 0 when nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def mean_k(self) -> float:
        """Drafts a step."""
        return self.drafted / self.steps if self.steps else 0.0

    @property
    def go_share(self) -> float:
        """Share of steps that verified a draft."""
        return self.speculated / self.steps if self.steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the text over seconds of steps and drafting; 0 before any."""
        spent_s = self.step_s + self.draft_s
        return self.emitted / spent_s if spent_s > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "acceptance": self.acceptance,
            "mean_k": self.mean_k,
            "go_share": self.go_share,
            "steps": self.steps,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "step_s": self.step_s,
            "draft_s": self.draft_s,
            "tokens_per_s": self.tokens_per_s,
        }
