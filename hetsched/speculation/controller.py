"""Controller: how many tokens to draft, so that the text grows fastest (MODEL.md, section 6).

    rate(K) = expected tokens of the step / expected seconds of the step and of drafting before it

A drafter may give fewer than it is asked for (prompt lookup mostly gives none), which is learned as acceptance is.
The estimates need steps of other lengths now and then; what such trials may cost is saved up as a share of the time.
At first something is given in advance and trials follow each other quickly, since what they say then holds for all
that comes: a trial that is expected to lose little by the model and the prior takes little of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cost.model import CostModel
from ..errors import InputError
from ..types import FloatArray
from .acceptance import Acceptance
from .record import Record
from .step_seconds import EvenStep, Expected, ModelledStep, StepSeconds

MARGIN = 0.03  # by which another K must be faster before it is taken
TRIAL_SHARE = 0.01  # of the time may be lost in trials
APART = 8  # steps from one trial to the next; fewer while there were fewer trials than that
FIRST_SAVED = 1.0  # steps without drafts: their time may be lost in trials before anything was saved
MOST_SAVED = 3.0  # trials' worth, so that a long wait is not followed by many
FIRST_STEPS = 4  # without drafts, so that there is something to compare with
KEEP = 0.97  # of what drafting took, each time


class Outlook(NamedTuple):
    """What asking for K drafts is expected to come to."""

    tokens: float
    seconds: float
    most_s: float  # if everything asked for were drafted

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Controller:
    """Chooses 0..k_max drafts for each step: `choose()`, then `observe(...)` what came of it. Deterministic.

    `cost`: of model and machine, by which steps are predicted; or `expected`, another prediction. Without either, every
    further token costs the same at first. `draft_token_s`: what drafting a token takes, until it was measured.
    `fixed`: always k_max.

    Raises InputError for a negative k_max.
    """

    def __init__(
        self,
        k_max: int,
        cost: CostModel | None = None,
        *,
        expected: Expected | None = None,
        draft_token_s: float = 0.0,
        fixed: bool = False,
    ) -> None:
        if k_max < 0:
            raise InputError(f"k_max {k_max} is negative; 0 switches speculation off")
        self.k_max = k_max
        self.record = Record()
        self._step = StepSeconds(expected or (EvenStep() if cost is None else ModelledStep(cost)))
        self._kept, self._given = Acceptance(k_max), Acceptance(k_max, prior_mean=0.9)
        self._draft_s, self._drafted = draft_token_s, 1.0
        self._fixed = fixed
        self._asked = self.usual = k_max if fixed else 0
        self._saved_s = self._most_s = self._loss_s = 0.0
        self._usual_rate = 1.0
        self._since_trial, self._trials, self._tried = 0, 0, -1

    def choose(self) -> int:
        """Drafts to ask for before the next step."""
        if self._fixed:
            return self.k_max
        if self.record.steps < FIRST_STEPS:
            return self.usual
        outlooks = self.outlooks()
        if self.record.steps == FIRST_STEPS:
            self._saved_s = FIRST_SAVED * outlooks[0].seconds
        best = max(range(self.k_max + 1), key=lambda k: outlooks[k].rate)
        if outlooks[best].rate > (1 + MARGIN) * outlooks[self.usual].rate:
            self.usual = min(best, 2 * self.usual + 1)
        self._asked, usual = self.usual, outlooks[self.usual]
        trial = self._trial()
        if trial is not None and self._since_trial >= min(self._trials, APART):
            self._loss_s = max(0.0, outlooks[trial].most_s - outlooks[trial].tokens / usual.rate)
            self._asked = trial if self._saved_s >= self._loss_s else self.usual
        self._usual_rate, self._most_s = usual.rate, outlooks[-1].most_s
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

    def stay_T(self, drafted: int) -> FloatArray:
        """P(stays in the text) of the tokens of a step that verifies so many drafts, the one before them first."""
        return np.concatenate([[1.0], np.cumprod(self._kept.rates_K()[:drafted])])

    def show(self, tokens: int, active: float, hits: float) -> None:
        """A step of so many tokens had these experts active, and there at demand, a layer on average."""
        self._step.expected.show(tokens, active, hits)

    def outlooks(self) -> list[Outlook]:
        """What asking for 0..k_max drafts is expected to come to."""
        token_s, step_s = self._draft_s / self._drafted, self._step.seconds(1)
        tokens, seconds, given, kept, made = 1.0, step_s, 1.0, 1.0, [Outlook(1.0, step_s, step_s)]
        rates = zip(self._given.rates_K().tolist(), self._kept.rates_K().tolist(), strict=True)
        for k, (given_rate, kept_rate) in enumerate(rates, 1):
            given, kept, shorter_s, step_s = given * given_rate, kept * kept_rate, step_s, self._step.seconds(1 + k)
            tokens += given * kept
            seconds += given * (step_s - shorter_s + token_s)
            made.append(Outlook(tokens, seconds, step_s + k * token_s))
        return made

    def _trial(self) -> int | None:
        """The K worth trying beside the usual one: one more and one fewer, in turns."""
        turns = (self.usual + 1, self.usual - 1) if self._tried < self.usual else (self.usual - 1, self.usual + 1)
        return next((k for k in turns if 0 <= k <= self.k_max), None)

    def _save(self, drafted: int, accepted: int, spent_s: float) -> None:
        """Pay for a trial out of what was saved, or save.

        It costs half what it was expected to and half what it did: both are right on average, the first does not end
        trials for bad luck, and the second brings the next one nearer where things are better than believed.
        """
        if self._asked != self.usual and drafted != self.usual:
            lost_s = spent_s - (1 + accepted) / self._usual_rate
            self._saved_s -= (self._loss_s + lost_s) / 2
            self._since_trial, self._tried = 0, self._asked
            self._trials += 1
        else:
            self._saved_s += TRIAL_SHARE * spent_s
            self._since_trial += 1
        self._saved_s = min(self._saved_s, MOST_SAVED * self._most_s)
