"""Controller: how many tokens to draft, so that the text grows fastest (MODEL.md, section 6).

    rate(K) = expected tokens of the step / expected seconds of the step and of drafting before it

A drafter may give fewer than it is asked for (prompt lookup mostly gives none), which is learned as acceptance is.
The estimates need steps of other lengths now and then; what such trials may cost is saved up as a share of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cost.model import CostModel
from ..errors import InputError
from .acceptance import Acceptance
from .record import Record
from .step_seconds import EvenStep, Expected, ModelledStep, StepSeconds

MARGIN = 0.03  # by which another K must be faster before it is taken
TRIAL_SHARE = 0.01  # of the time may be lost in trials
MOST_SAVED = 3.0  # trials' worth, so that a long wait is not followed by many
KEEP = 0.97  # of what drafting took, each time


class Outlook(NamedTuple):
    """What asking for K drafts is expected to come to."""

    tokens: float
    seconds: float
    most_s: float  # if everything asked for were drafted


class Controller:
    """Chooses 0..k_max drafts for each step: `choose()`, then `observe(...)` what came of it. Deterministic.

    `cost`: of model and machine, by which steps are predicted; or `expected`, another prediction. Without either, every
    further token costs the same at first. `draft_token_s`: what drafting a token takes, until it was measured.
    Raises InputError for a negative k_max.
    """

    def __init__(
        self,
        k_max: int,
        cost: CostModel | None = None,
        *,
        expected: Expected | None = None,
        draft_token_s: float = 0.0,
    ) -> None:
        if k_max < 0:
            raise InputError(f"k_max {k_max} is negative; 0 switches speculation off")
        self.k_max = k_max
        self.record = Record()
        self._step = StepSeconds(expected or (EvenStep() if cost is None else ModelledStep(cost)))
        self._kept, self._given = Acceptance(k_max), Acceptance(k_max, prior_mean=0.9)
        self._draft_s, self._drafted = draft_token_s, 1.0
        self._asked = self._usual = 0
        self._saved_s = 0.0

    def choose(self) -> int:
        """Drafts to ask for before the next step."""
        outlooks = [self.outlook(k) for k in range(self.k_max + 1)]
        rates = [outlook.tokens / outlook.seconds for outlook in outlooks]
        best = int(np.argmax(rates))
        if rates[best] > (1 + MARGIN) * rates[self._usual]:
            self._usual = min(best, 2 * self._usual + 1)
        self._asked = self._usual
        trial = self._trial()
        if trial is not None and self._saved_s >= self._loss_s(outlooks[trial], 1.0, rates):
            self._asked = trial
        return self._asked

    def observe(self, drafted: int, accepted: int, step_s: float, draft_s: float, asked: int | None = None) -> None:
        """A step of 1 + `drafted` tokens, of which `accepted` drafts stayed, after drafting for `draft_s`.

        `asked`: drafts that the drafter was free to give, if not those that choose() said (the text's end is near).
        Raises InputError for impossible counts.
        """
        asked = max(drafted, self._asked if asked is None else asked)
        if not 0 <= accepted <= drafted <= self.k_max:
            raise InputError(f"{accepted} of {drafted} drafts accepted, with at most {self.k_max} drafts")
        self.record.add(drafted, accepted, step_s, draft_s)
        self._step.observe(1 + drafted, step_s)
        if asked:
            self._given.observe(drafted, drafted < min(asked, self.k_max))
        if drafted:
            self._kept.observe(accepted, accepted < drafted)
            self._draft_s, self._drafted = KEEP * self._draft_s + draft_s, KEEP * self._drafted + drafted
        else:
            self._kept.age()
        self._save(drafted, accepted, step_s + draft_s)

    def show(self, tokens: int, active: float, hits: float) -> None:
        """A step of so many tokens had these experts active, and there at demand, a layer on average."""
        self._step.expected.show(tokens, active, hits)

    def outlook(self, k: int) -> Outlook:
        """What asking for k drafts is expected to come to."""
        given_K, kept_K = np.cumprod(self._given.rates_K()[:k]), np.cumprod(self._kept.rates_K()[:k])
        token_s = self._draft_s / self._drafted
        exactly = -np.diff(np.concatenate(([1.0], given_K, [0.0])))  # P(0..k drafts are given)
        steps_s = [self._step.seconds(1 + n) for n in range(k + 1)]
        seconds = float(exactly @ steps_s) + token_s * float(given_K.sum())
        return Outlook(1.0 + float(given_K @ kept_K), seconds, steps_s[-1] + k * token_s)

    def _trial(self) -> int | None:
        """The K worth trying beside the usual one: of its neighbours the one measured less."""
        beside = [k for k in (self._usual + 1, self._usual - 1) if 0 <= k <= self.k_max]
        return min(beside, key=lambda k: self._step.weight(1 + k)) if beside else None

    def _loss_s(self, outlook: Outlook, tokens: float, rates: list[float]) -> float:
        """Seconds that a trial loses at worst: all it asked for is drafted, and so few tokens come of it."""
        return max(0.0, outlook.most_s - tokens / rates[self._usual])

    def _save(self, drafted: int, accepted: int, spent_s: float) -> None:
        """Pay for a trial out of what was saved, or save."""
        usual = self.outlook(self._usual)
        token_s = usual.seconds / usual.tokens
        if self._asked != self._usual and drafted != self._usual:
            self._saved_s -= max(0.0, spent_s - (1 + accepted) * token_s)
            return
        most_s = MOST_SAVED * max(self.outlook(k).most_s for k in range(self.k_max + 1))
        self._saved_s = min(self._saved_s + TRIAL_SHARE * spent_s, most_s)
