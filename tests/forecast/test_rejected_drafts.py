"""What drafts that may be rejected teach: as much as they are expected to stay.

Shapes: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hetsched.engine.layer_work import LayerInput, demand_of
from hetsched.forecast.ewma import Ewma
from hetsched.forecast.frequency import Frequency
from hetsched.forecast.gamma_poisson import GammaPoisson
from hetsched.forecast.last import Last
from hetsched.forecast.transition import Transition
from hetsched.machine.gallery import machine
from hetsched.scheduler import Scheduler
from hetsched.testing.forecaster_ground import SHAPE, started
from hetsched.types import Demand, Phase

LEARNERS = (Ewma, Frequency, GammaPoisson, Last, Transition)
FIRST, DRAFT = (0, 1, 2), (2, 8, 9)  # experts of a verify step's two tokens


def verified(p: float, layer: int = 0) -> Demand:
    """The two tokens, of which the second stays with probability p."""
    first_E, draft_E = (np.bincount(experts, minlength=SHAPE.num_experts) for experts in (FIRST, DRAFT))
    return Demand(0, layer, Phase.VERIFY, first_E + draft_E, 2, None, False, first_E + p * draft_E, 1.0 + p)


def test_shares_are_of_tokens_that_stay() -> None:
    assert verified(1.0).share_E[[0, 2, 8]].tolist() == [0.5, 1.0, 0.5]
    assert verified(0.25).share_E[[0, 2, 8]].tolist() == pytest.approx([0.8, 1.0, 0.2])
    plain = Demand(0, 0, Phase.VERIFY, verified(1.0).tokens_E, 2)
    assert (plain.share_E == verified(1.0).share_E).all()
    assert verified(0.0).tokens == [1, 1, 2, 1, 1], "all of them are computed"


@pytest.mark.parametrize("make", LEARNERS)
def test_a_draft_teaches_as_much_as_it_may_stay(make: Callable[[], Any]) -> None:
    said = {}
    for p in (0.0, 0.5, 1.0):
        forecaster = started(make)
        forecaster.observe(verified(p))
        said[p] = forecaster.demand_LE()[0].copy()
    assert said[0.0][8] < said[0.5][8] < said[1.0][8]
    assert said[0.0][8] == pytest.approx(said[0.0][5]), "a draft that is rejected for sure says nothing of its experts"
    assert said[0.0][0] > said[0.0][8]


def test_kernel_and_method_learn_the_same() -> None:
    """The board holds what the demand says, and nothing of it is left for the next layer."""
    by_method, by_kernel = started(Transition), Transition()
    made = Scheduler(SHAPE, machine("rtx-4090"), 9 * SHAPE.expert_bytes, policy="hetsched", forecaster=by_kernel)
    for layer, asked in (
        (0, verified(0.25)),
        (1, verified(0.75, 1)),
        (2, Demand(0, 2, Phase.VERIFY, verified(1.0).tokens_E, 2)),
    ):
        assert asked.layer == layer
        by_method.observe(asked)
        made.step(asked)
        made.prefetch()
    assert by_kernel.next_LE() == pytest.approx(by_method.next_LE(), rel=1e-6)


def test_the_engine_weighs_tokens_by_their_place() -> None:
    made = Scheduler(SHAPE, machine("rtx-4090"), 0, policy="cpu-only")
    module = type("Module", (), {"num_experts": SHAPE.num_experts})()
    ids_TK = torch.tensor([FIRST, DRAFT])
    work = LayerInput(0, module, torch.zeros(2, 4), ids_TK, torch.ones(2, 3))
    weighed = demand_of(work, made, Phase.VERIFY, np.array([1.0, 0.25]))
    assert (weighed.share_E == verified(0.25).share_E).all()
    assert weighed.tokens == [1, 1, 2, 1, 1]
    other = demand_of(work._replace(layer=1), made, Phase.VERIFY, np.array([1.0, 0.25, 0.1]))
    assert other.kept_N is None, "probabilities of another step say nothing"
