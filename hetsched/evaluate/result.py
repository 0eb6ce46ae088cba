"""What an evaluation came to: rows, what was evaluated and how, as a document, a page or a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measures import Sums, intervals, values

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "hetsched-evaluate/1"
MEANING = {
    "forecaster": "whose forecasts are used; null: none",
    "precision": "right guesses over guesses",
    "recall": "right guesses over experts asked for",
    "f1_positive": "F1 of the experts asked for",
    "f1_macro": "mean of that and of the F1 of the experts not asked for, which are many and easy",
    "accuracy": "share of all (token, layer, expert) where guess and demand agree; guessing nothing is right for most",
    "calibration_error": "mean over experts of |forecast probability - how often it came|, in 15 bins of probability",
    "hit_rate": "experts that were there when they were asked for, over experts asked for",
    "bytes_per_token": "experts copied, demanded and ahead of demand",
    "wasted_bytes_per_token": "copied ahead of demand and given up unused",
    "tokens_per_s": "decoded tokens a second of simulated time; null where the protocol has no time",
    "ci95": "95 % intervals over sequences, drawn anew 2,000 times with a fixed seed; null for a single sequence",
}


@dataclass(frozen=True)
class Row:
    """One forecaster with one strategy at one share of the experts; measures as MEANING has them, None: not measured.

    `stand_in`: what the forecaster has in place of its paper's input. `clairvoyant`: it knows the future.
    """

    forecaster: str | None
    strategy: str
    gpu_fraction: float
    hardware: str | None = None
    precision: float | None = None
    recall: float | None = None
    f1_positive: float | None = None
    f1_macro: float | None = None
    accuracy: float | None = None
    calibration_error: float | None = None
    hit_rate: float | None = None
    bytes_per_token: float | None = None
    wasted_bytes_per_token: float | None = None
    tokens_per_s: float | None = None
    ci95: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    clairvoyant: bool = False
    stand_in: str = ""

    @classmethod
    def of(cls, forecaster: str | None, strategy: str, gpu_fraction: float, *sums_S: Sums, **more: Any) -> Row:
        """A row with every measure that these sums by sequence allow."""
        known: dict[str, Any] = {}
        ci95: dict[str, tuple[float, float] | None] = {}
        for part in sums_S:
            known |= values(part)
            ci95 |= intervals(part)
        return cls(forecaster, strategy, gpu_fraction, **known, ci95=ci95, **more)


@dataclass(frozen=True)
class Evaluation:
    """Rows of one protocol. `facts`: what was evaluated, ready for JSON. `study`: tables of the caching study."""

    protocol: str
    rows: list[Row]
    facts: dict[str, Any] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON document "hetsched-evaluate/1"."""
        rows = [asdict(row) for row in self.rows]
        return {
            "schema": SCHEMA,
            "protocol": self.protocol,
            **self.facts,
            "meaning": MEANING,
            "rows": rows,
            **self.study,
        }

    def table(self) -> RenderableType:
        """For a terminal, through rich."""
        from ..report.evaluate_view import evaluate_view

        return evaluate_view(self)

    def plot(self, path: str | Path) -> None:
        """Draw it into one file."""
        from ..report.evaluate_plot import plot_evaluation

        plot_evaluation(self, Path(path))
