"""Forecasters: what will be demanded. One a file; the protocol is here.

Shapes: L layers, E experts, T tokens of the step, H width of the hidden states, D layers or tokens ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray

DEFAULT_FORECASTER = "transition"
MOST_TOKENS = 64  # of a step whose gates say anything: in a longer one nearly everything is demanded by somebody
LAYERS_AHEAD = 3  # whose gates are asked for
POPULARITY = "popularity_LE"  # among what was learned: tokens per expert, which needs no forecaster
NEEDS = {  # what a forecaster may ask for beside ids, in words
    "hidden": "the hidden states at each router",
    "gates": "the next layers' routers applied to the hidden states of this one",
    "draft": "the routers' probabilities for drafted tokens",
    "future": "the demand to come, which only a replay knows",
}
Learned: TypeAlias = Mapping[str, npt.NDArray[Any]]  # sums by name, each made of what was seen and none of rates


class Context(NamedTuple):
    """What may be known at a layer besides its demand; None: it is not.

    `hidden_TH`: hidden states at the layer's router, a row a token (in a model, of the last MOST_TOKENS of a step).
    `gates_DTE`: probabilities over experts by the routers of the next D layers on those states, each layer's own
    normalisation applied first; [d] is of layer + 1 + d, fewer near the last layer, None for steps of more than
    MOST_TOKENS. `draft_DLE`: the same by all routers for D drafted tokens, [:, l] of those that layer l is to see at
    its next visit; all 0 where nothing is said of a token at a layer. `future`: the demand to come, its tokens numbered
    by steps (`step_T`).
    """

    hidden_TH: npt.NDArray[Any] | None = None
    gates_DTE: npt.NDArray[Any] | None = None
    draft_DLE: npt.NDArray[Any] | None = None
    future: RoutingTrace | None = None


NOTHING = Context()


class Traits(NamedTuple):
    """What a forecaster says of itself in attributes of its class; these are the defaults.

    `needs`: fields of a Context that it cannot do without, as named in NEEDS; its `observe` then takes one. `takes`:
    fields that it makes use of where somebody gives them; its `observe` must do without a Context too.
    `least_tokens`: tokens of a step below which it learns nothing. `cost_s`: about what observing a layer takes, by
    which an ensemble judges whether it is worth asking; declared, so that forecasts do not depend on a clock.
    """

    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    least_tokens: int = 1
    cost_s: float = 20e-6


@runtime_checkable
class Forecaster(Protocol):
    """Expected demand ahead, from demand seen.

    `reach`: observing a layer changes forecasts of that layer and so many after it, and no others. None: of any.

    More is optional. Traits, above. `forecast(layer, horizon) -> float [E]`, where more is known than the two tables
    say. `kernel()`, where `observe` has a compiled form (policies/compiled.py). `learned() -> Learned` gives what
    another run may begin with, as sums that can be added and scaled; `recall(learned)`, after `start`, takes it.
    `foresee(draft_DLE)`, between two steps: what a Context's would say of the next; the last one that is told counts.
    """

    name: str
    reach: int | None

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Begin anew; from tokens per expert in a calibration trace, or from the trace itself, if there is one."""
        ...

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand. One that needs more takes `context: Context = NOTHING` too."""
        ...

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        ...

    def next_LE(self) -> FloatArray:
        """The same for the next visit of each layer, where more is known of it; valid until the next observe."""
        ...


def traits(forecaster: Any) -> Traits:
    """Traits of a forecaster, or of a class of them."""
    return Traits(**{name: getattr(forecaster, name) for name in Traits._fields if hasattr(forecaster, name)})


def forecast(forecaster: Forecaster, layer: int, horizon: int = 1) -> FloatArray:
    """P(each expert is demanded by one token) at the `horizon`-th visit of a layer from now, float [E].

    The next visit is next_LE's; later ones are the forecaster's own where it has them, else demand_LE's.
    """
    own = getattr(forecaster, "forecast", None)
    if own is not None:
        said_E: FloatArray = own(layer, horizon)
        return said_E
    said_LE = forecaster.next_LE() if horizon == 1 else forecaster.demand_LE()
    row_E: FloatArray = said_LE[layer]
    return row_E


def tell(forecaster: Any, demand: Demand, context: Context = NOTHING) -> None:
    """Let a forecaster observe a layer, with the context where it needs any."""
    said = traits(forecaster)
    if said.needs or said.takes:
        forecaster.observe(demand, context)
    else:
        forecaster.observe(demand)


def under(prefix: str, learned: Learned) -> Learned:
    """What stands under a prefix, by names without it."""
    return {name.removeprefix(prefix): array for name, array in learned.items() if name.startswith(prefix)}


def counted_LE(frequency_LE: FloatArray | None, history: RoutingTrace | None) -> FloatArray | None:
    """Tokens per expert of a calibration: as given, else counted in its trace, float [L, E]; None without either."""
    if frequency_LE is None and history is not None:
        frequency_LE = history.demand_LE(slice(None)).astype(float)
    return frequency_LE


def shares_LE(
    geometry: MoEGeometry, frequency_LE: FloatArray | None, history: RoutingTrace | None = None
) -> FloatArray:
    """Tokens per expert for one token, from calibration frequencies or a trace or uniform, float [L, E]."""
    frequency_LE = counted_LE(frequency_LE, history)
    if frequency_LE is None:
        return np.full((geometry.num_layers, geometry.num_experts), geometry.top_k / geometry.num_experts)
    total_L = np.maximum(frequency_LE.sum(axis=1, keepdims=True), 1e-30)
    share_LE: FloatArray = geometry.top_k * frequency_LE / total_L
    return share_LE
