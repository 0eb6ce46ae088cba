"""Speculation: a step verifies several drafted tokens at once, and yields those that were right and one more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError
from ..machine.profile import HardwareProfile
from ..speculation.union import ExpertUnion
from .decode import step
from .engine import Engine
from .placement import Placement
from .subject import Subject
from .times import Times


@dataclass(frozen=True)
class Speculation:
    """`drafts` tokens a step, each right with chance `acceptance` if those before it were.

    `draft_layers`: layers of the model that a draft goes through, then the head: 1 for a multi-token-prediction head
    (DeepSeek-V3, arXiv 2412.19437, section 2.2), whose experts are where the layers' experts are.
    """

    drafts: int
    acceptance: float
    draft_layers: int = 1

    def __post_init__(self) -> None:
        if self.drafts < 1 or not 0 <= self.acceptance <= 1 or self.draft_layers < 0:
            raise InputError(
                f"{self.drafts} drafts of {self.draft_layers} layers, right with {self.acceptance:g}; "
                "give at least one draft, and a chance between 0 and 1"
            )

    @property
    def tokens(self) -> float:
        """Expected tokens of a step: 1 + a + a^2 + ... (Leviathan et al. 2023, arXiv 2211.17192, equation 1)."""
        return sum(self.acceptance**i for i in range(self.drafts + 1))


def speculate(
    subject: Subject,
    profile: HardwareProfile,
    engine: Engine,
    placement: Placement,
    context: int,
    speculation: Speculation,
) -> Times:
    """Seconds a token, drafting included."""
    size = speculation.drafts + 1
    active = ExpertUnion(subject.geometry).active(size)
    verified = step(subject, profile, engine, placement, context, size, active)
    one = step(subject, profile, engine, placement, context, 1, float(subject.geometry.top_k))
    share = speculation.draft_layers / subject.geometry.num_layers
    drafted = replace(one.times(share), head_s=one.head_s) if share else Times(head_s=one.head_s)
    return verified.plus(drafted.times(speculation.drafts)).over(speculation.tokens)
