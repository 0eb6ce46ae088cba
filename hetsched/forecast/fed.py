"""A configured forecaster: made from its name, refused where it needs what nobody has, and handed what it needs.

A policy observes demands and no more; what else is known reaches the forecaster on this way.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import InputError
from ..geometry import MoEGeometry
from ..plugins import instance
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import NEEDS, NOTHING, Context, Forecaster, Learned, tell, traits, under

GROUP = "hetsched.forecasters"


class Contexts(Protocol):
    """Whoever knows more of a layer than its demand. `gives`: the needs that it fills, at every layer."""

    gives: frozenset[str]

    def of(self, demand: Demand) -> Context:
        """What is known at this layer."""
        ...


class Nobody:
    """Nothing is known but ids."""

    gives: frozenset[str] = frozenset()

    def of(self, demand: Demand) -> Context:
        """NOTHING."""
        return NOTHING


class Replayed:
    """A replay knows what will be demanded: `future`, its tokens numbered by steps."""

    gives = frozenset({"future"})

    def __init__(self, future: RoutingTrace) -> None:
        self._context = Context(future=future)

    def of(self, demand: Demand) -> Context:
        """The whole future; the demand says how far it has come."""
        return self._context


class Fed:
    """A forecaster under the protocol of one that needs nothing: `contexts` and `learned` are handed to it here."""

    def __init__(self, inner: Any, contexts: Contexts, learned: Learned | None = None) -> None:
        self.inner: Any = inner
        self.name: str = inner.name
        self.reach: int | None = inner.reach
        self._contexts = contexts
        self._learned = learned
        for optional in ("kernel", "forecast", "learned"):
            if hasattr(inner, optional):
                setattr(self, optional, getattr(inner, optional))

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin anew, then with what another run has learned."""
        self.inner.start(geometry, frequency_LE, history)
        if self._learned and hasattr(self.inner, "recall"):
            self.inner.recall(self._learned)

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand, and what is known besides."""
        tell(self.inner, demand, self._contexts.of(demand))

    def demand_LE(self) -> FloatArray:
        """As the forecaster says."""
        said_LE: FloatArray = self.inner.demand_LE()
        return said_LE

    def next_LE(self) -> FloatArray:
        """As the forecaster says."""
        said_LE: FloatArray = self.inner.next_LE()
        return said_LE


def configured(spec: Any, contexts: Contexts | None = None, learned: Learned | None = None) -> Forecaster:
    """The forecaster of a name, class or object, with what it needs. Raises InputError where nobody has that.

    `learned`: what any forecasters have, each under its name.
    """
    made, given = instance(GROUP, spec), contexts or Nobody()
    refuse_needs(made, given.gives)
    own = under(f"{made.name}/", learned or {})
    if not traits(made).needs and not own:
        plain: Forecaster = made
        return plain
    return Fed(made, given, own)


def refuse_needs(forecaster: Any, given: frozenset[str] = frozenset()) -> None:
    """Raise InputError for a forecaster, or a class of them, that needs what is not among `given`."""
    missing = sorted(traits(forecaster).needs - given)
    if missing:
        what = "; ".join(NEEDS.get(need, need) for need in missing)
        name = getattr(forecaster, "name", forecaster)
        raise InputError(
            f"forecaster {name} needs {', '.join(missing)} ({what}), which nothing gives here; choose one that needs "
            "ids only, for instance transition"
        )
