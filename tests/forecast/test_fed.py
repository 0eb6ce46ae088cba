"""Who gets what he needs: contexts, needs that nobody fills, and which forecaster a policy is given."""

from __future__ import annotations

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.forecast import NEEDS, NOTHING, Context, forecast, tell, traits
from hetsched.forecast.ewma import Ewma
from hetsched.forecast.fed import Fed, Replayed, configured
from hetsched.forecast.gate_ahead import GateAhead
from hetsched.forecast.oracle import Oracle
from hetsched.forecast.transition import Transition
from hetsched.machine.gallery import machine
from hetsched.policies.dali import Dali
from hetsched.policies.hybrimoe import HybriMoe
from hetsched.policies.utility import Utility
from hetsched.replay.simulator import simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.forecaster_ground import SHAPE, routing, started
from hetsched.types import Demand, LinkState, Outcome, Phase


class Hidden(Ewma):
    """Needs hidden states, and notes what it gets."""

    name = "hidden"
    needs = frozenset({"hidden"})
    got: list[Context]

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        self.got = [*getattr(self, "got", []), context]
        super().observe(demand)


class States:
    """Gives hidden states that say which layer they are of."""

    gives = frozenset({"hidden"})

    def of(self, demand: Demand) -> Context:
        return Context(hidden_TH=np.full((1, 2), demand.layer))


def scheduler(**given: object) -> Scheduler:
    return Scheduler(SHAPE, machine("rtx-4060-laptop-8gb"), 12 * SHAPE.expert_bytes, **given)


def run(made: Scheduler, tokens: int = 3) -> None:
    for row_LE in np.array([routing(tokens).demand_LE(slice(t, t + 1)) for t in range(tokens)]):
        for layer, tokens_E in enumerate(row_LE):
            plan = made.step(made.demand(layer, tokens_E, 1, Phase.DECODE), LinkState())
            made.observe(Outcome(plan, 1e-4, plan.predicted_s))


@pytest.mark.parametrize("policy", [Utility, HybriMoe, Dali])
def test_the_chosen_forecaster_is_the_one_that_learns(policy: type) -> None:
    """With its context, at every layer, and never started or told by anybody else."""
    hidden = Hidden()
    made = scheduler(policy=policy(), forecaster=hidden, contexts=States())
    run(made)
    assert [int(c.hidden_TH[0, 0]) for c in hidden.got if c.hidden_TH is not None] == 3 * list(range(SHAPE.num_layers))
    assert np.allclose(hidden.demand_LE().sum(axis=1), SHAPE.top_k)


@pytest.mark.parametrize("policy", [Utility, HybriMoe, Dali])
def test_a_policy_has_a_forecaster_of_its_own(policy: type) -> None:
    assert isinstance(scheduler(policy=policy()).forecaster, Transition)


def test_a_policy_may_bring_its_forecaster_and_the_scheduler_overrules_it() -> None:
    ewma = Ewma()
    assert scheduler(policy=Utility(forecaster=ewma)).forecaster is ewma
    assert isinstance(scheduler(policy=Utility(forecaster=ewma), forecaster=Transition).forecaster, Transition)


def test_what_a_forecaster_in_python_says_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """hetsched reads its tables after every layer, though they be new arrays each time."""

    class Fickle(Ewma):
        def next_LE(self) -> np.ndarray:
            return super().next_LE().copy()

        def demand_LE(self) -> np.ndarray:
            return super().demand_LE().copy()

    same, fickle = Ewma(), Fickle()
    trace, steps = routing(60), steps_of(routing(60))
    runs = [simulate(trace, steps, scheduler(policy=Utility(), forecaster=asked)) for asked in (same, fickle)]
    assert runs[0].stats.hits == runs[1].stats.hits
    assert runs[0].stats.prefetches == runs[1].stats.prefetches > 0


@pytest.mark.parametrize(("asked", "need"), [(Hidden, "hidden"), (GateAhead, "gates"), (Oracle, "future")])
def test_a_need_that_nobody_fills_is_an_error_at_set_up(asked: type, need: str) -> None:
    with pytest.raises(InputError, match=rf"needs {need} \({NEEDS[need]}\).*transition"):
        scheduler(policy=Utility(), forecaster=asked)
    assert traits(asked).needs == {need}


def test_a_forecaster_that_nobody_asks_is_an_error() -> None:
    with pytest.raises(InputError, match="policy lfru asks no forecaster, so ewma would change nothing"):
        scheduler(policy="lfru", forecaster="ewma")


def test_what_needs_nothing_is_not_wrapped() -> None:
    """And keeps its compiled form; one that needs more is told by the fed one, under the plain protocol."""
    assert isinstance(configured("transition"), Transition)
    fed = configured(Oracle, Replayed(routing(4)))
    assert isinstance(fed, Fed)
    fed.start(SHAPE)
    fed.observe(Demand(0, 0, Phase.DECODE, routing(1).demand_LE(slice(None))[0], 1))
    assert (fed.next_LE()[1:] == routing(4).demand_LE(slice(0, 1))[1:]).all()
    assert (fed.next_LE()[0] == routing(4).demand_LE(slice(1, 2))[0]).all()


def test_horizons_of_the_protocol() -> None:
    """1 is the next visit; later ones are the mean's, unless a forecaster knows more."""
    transition = started(Transition, None, routing(100))
    tell(transition, Demand(0, 0, Phase.DECODE, routing(1).demand_LE(slice(None))[0], 1))
    assert (forecast(transition, 1) == transition.next_LE()[1]).all()
    assert (forecast(transition, 1, 3) == transition.demand_LE()[1]).all()

    class Clock(Ewma):
        def forecast(self, layer: int, horizon: int) -> np.ndarray:
            return np.full(SHAPE.num_experts, float(horizon))

    assert forecast(Clock(), 2, 7)[0] == 7.0
