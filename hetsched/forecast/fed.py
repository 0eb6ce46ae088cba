"""A configured forecaster: made from its name, refused where it needs what nobody has, and handed what it needs.

A policy observes demands and no more; what else is known reaches the forecaster on this way.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..geometry import MoEGeometry
from ..plugins import instance
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray, read_only
from . import (
    LAYERS_AHEAD,
    MOST_TOKENS,
    NEEDS,
    NOTHING,
    POPULARITY,
    Context,
    Forecaster,
    Learned,
    counted_LE,
    tell,
    traits,
    under,
)
from .emulated_draft import EmulatedDraft

GROUP = "hetsched.forecasters"
STATES = frozenset({"hidden", "gates"})  # what an attached model gives, and a trace with hidden states and routers
LIVE = STATES | {"draft"}  # what an attached model gives; of drafts, whatever is drafted, and that may be nothing


class Contexts(Protocol):
    """Whoever knows more of a layer than its demand. `gives`: the needs that it fills, at every layer.

    Optional: `only(needs) -> Contexts`, one that does no work but for these.
    """

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
    """A replay knows what its trace has: the `future`, tokens numbered by steps; hidden states, and gates of routers.

    `foresees`: False where nothing of the future may be known, which then is not given. `draft_accuracy`: of drafts
    that stand in for real ones (emulated_draft.py), given with the last layer of the step before; None: none are.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        *,
        foresees: bool = True,
        needs: frozenset[str] = frozenset(NEEDS),
        draft_accuracy: float | None = None,
    ) -> None:
        self._trace, self._foresees, self._needs = trace, foresees, needs
        self._draft_accuracy = draft_accuracy
        drafts = None if draft_accuracy is None else EmulatedDraft(trace, draft_accuracy)
        has = {"future": foresees, "hidden": trace.width > 0, "gates": trace.width > 0 and trace.routers is not None}
        has["draft"] = drafts is not None and drafts.gives
        self.gives = frozenset(need for need, there in has.items() if there)
        self._future = trace if foresees else None
        self._states = bool(needs & self.gives & {"hidden", "gates"})
        self._drafts = drafts if "draft" in needs & self.gives else None

    def only(self, needs: frozenset[str]) -> Replayed:
        """The same for a forecaster with these needs."""
        accuracy = self._draft_accuracy
        return Replayed(self._trace, foresees=self._foresees, needs=needs, draft_accuracy=accuracy)

    def of(self, demand: Demand) -> Context:
        """The whole future, of which the demand says how far it has come, and what is known at its layer."""
        trace, draft_DLE = self._trace, None
        if self._drafts is not None and demand.layer == trace.num_layers - 1:
            draft_DLE = self._drafts.after(demand.step)
        if not self._states or trace.hidden_TLH is None:
            return Context(draft_DLE=draft_DLE, future=self._future)
        begin = demand.step if trace.step_T is None else int(np.searchsorted(trace.step_T, demand.step))
        hidden_TH, gates_DTE = trace.hidden_TLH[begin : begin + demand.num_tokens, demand.layer], None
        if trace.routers is not None and "gates" in self._needs and len(hidden_TH) <= MOST_TOKENS:
            gates_DTE = trace.routers.ahead(demand.layer, hidden_TH, LAYERS_AHEAD, trace.num_experts)
        return Context(hidden_TH, gates_DTE, draft_DLE, self._future)


class Fed:
    """A forecaster under the protocol of one that needs nothing: `contexts` and `learned` are handed to it here."""

    def __init__(self, inner: Any, contexts: Contexts, learned: Learned | None = None) -> None:
        self.inner: Any = inner
        self.name: str = inner.name
        self.reach: int | None = inner.reach
        self._contexts = contexts
        self._learned = learned
        told = traits(inner).needs | traits(inner).takes  # whose compiled form would go without
        for optional in ("kernel", "forecast", "learned", "foresee"):
            if hasattr(inner, optional) and not (optional == "kernel" and told):
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
    own, said = under(f"{made.name}/", learned or {}), traits(made)
    needs = said.needs | (said.takes & given.gives)
    if not needs and not own:
        plain: Forecaster = made
        return plain
    return Fed(made, given.only(needs) if hasattr(given, "only") else given, own)


def needs_of(forecaster: Any) -> frozenset[str]:
    """What a configured forecaster is handed beside demands; nothing for None."""
    if not isinstance(forecaster, Fed):
        return traits(forecaster).needs
    said = traits(forecaster.inner)
    return said.needs | said.takes


def refuse_needs(forecaster: Any, given: frozenset[str] = frozenset()) -> None:
    """Raise InputError for a forecaster, or a class of them, that needs what is not among `given`."""
    missing = sorted(traits(forecaster).needs - given)
    if missing:
        what = "; ".join(NEEDS.get(need, need) for need in missing)
        name = getattr(forecaster, "name", forecaster)
        recorded = "record the trace with 'hetsched trace record --hidden', or " if STATES.issuperset(missing) else ""
        raise InputError(
            f"forecaster {name} needs {', '.join(missing)} ({what}), which nothing gives here; {recorded}choose one "
            "that needs ids only, for instance transition"
        )


def known_before(
    frequency_LE: FloatArray | None, history: RoutingTrace | None, learned: Learned | None
) -> FloatArray | None:
    """Tokens per expert from calibration and from what other runs have learned, read only; None without any."""
    counted = counted_LE(frequency_LE, history)
    if learned:
        popular_LE = learned[POPULARITY]
        counted = popular_LE if counted is None else counted + popular_LE
    return None if counted is None else read_only(counted)
