"""Policy protocol: what a strategy is told and what it answers. One policy a file, in hetsched/policies.

For writers of policies, so that a rule of a few lines is a policy of a few lines:

* policies.misses.decision: a layer's Decision from what is to be fetched in whose place, with the makespan to expect;
  misses_on_cpu where nothing is.
* policies.static.most_frequent, evenly: what `start` may return, from the calibration frequency, over all layers or
  with equal shares for each.
* policies.idle_link.room, copies: how many prefetches the link has room for, and the prefetches themselves, newcomers
  in your order in the places that you value least. expected: who a forecast expects, and with how many tokens.
* cost: `Setting.cost` answers on every machine; what would run on a GPU that is not there takes forever.

`Demand.new_request` says where a request begins. What an executed plan came to, and so the clock, `executed` is told;
kernels find it summed up on the board (`sums_s`: hetsched.board).

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from .cost.model import CostModel
from .dispatch.guard import SolverGuard
from .errors import InputError
from .forecast import Forecaster
from .geometry import MoEGeometry
from .plugins import instance
from .residency import Reading
from .traces.trace import RoutingTrace
from .types import Demand, Evict, ExpertId, Fetch, FloatArray, Lane, LinkState, Run

if TYPE_CHECKING:
    from .policies.compiled import PolicyKernels


@dataclass(frozen=True)
class Setting:
    """What a policy is built for.

    `num_slots`: experts that fit on the GPU, at the start. `solver`: under guard, so that any answer of it may be used.
    `frequency_LE`: tokens per expert in a calibration trace, or None.
    `history`: the calibration trace itself, for what is learned from order. `future`: what will be demanded, which only
    a replay knows, for clairvoyant baselines. `forecaster`: the one that was chosen, for policies that ask one.
    """

    geometry: MoEGeometry
    cost: CostModel
    num_slots: int
    solver: SolverGuard
    frequency_LE: FloatArray | None = None
    history: RoutingTrace | None = None
    future: RoutingTrace | None = None
    forecaster: Forecaster | None = None

    def forecaster_or(self, spec: Any) -> Forecaster:
        """The forecaster that was chosen, or a new one of this name. The policy starts it."""
        made: Forecaster = self.forecaster or instance("hetsched.forecasters", spec)
        return made

    @cached_property
    def one_token_runs(self) -> tuple[list[list[Run]], list[list[Run]]]:
        """Every Run of one token, by layer and expert, on the GPU and on the CPU: made once, shared by all plans."""
        layers, experts = range(self.geometry.num_layers), range(self.geometry.num_experts)
        on_gpu = [[Run(ExpertId(l, e), 1, Lane.GPU, "resident") for e in experts] for l in layers]
        on_cpu = [[Run(ExpertId(l, e), 1, Lane.CPU, "the CPU ends sooner") for e in experts] for l in layers]
        return on_gpu, on_cpu


class View(NamedTuple):
    """What a policy sees at a decision: residency, which it cannot change, and the copy engine."""

    residency: Reading
    link: LinkState


class Decision(NamedTuple):
    """A policy's answer for one layer: where experts run, demanded copies in order, residents given up.

    `predicted_s`: the makespan it expects; `solver_status`: the solver's, if one was asked.
    """

    runs: tuple[Run, ...]
    fetches: tuple[Fetch, ...] = ()
    evicts: tuple[Evict, ...] = ()
    predicted_s: float = 0.0
    solver_status: str = ""


class Traits(NamedTuple):
    """What a policy declares of itself, in its class attribute `traits`; traits_of reads it.

    `family`: a word to group it by. `clairvoyant`: a replay tells it the future. `lossless`: False where it changes
    tokens. `stand_in`: what it has in place of its paper's input. `uses_weights`: its demands carry `weights_E`, the
    router weights, in engines and in replays of traces that hold them; others are spared what adding them up costs.
    `uses_solver`: it asks `setting.solver`; naming a solver for one that does not is an error. `uses_forecaster`: the
    same of `setting.forecaster`; an attribute `forecaster` of the policy is the one that it has by default. `watched`:
    in engines simple strategies may decide while it is worse than they would be (hetsched.shadow); others stay what
    they are, as baselines must. `static`: what `start` returns is its whole placement, which it never changes; when the
    number of slots changes it is asked anew. `is_paced`: its kernels say of each copy what it gains, and bear not to
    learn every step, so that where looking ahead costs more than that it is done in one of at most `pace` steps
    (deciders/pace.py), an attribute of the policy.
    """

    family: str = ""
    clairvoyant: bool = False
    lossless: bool = True
    stand_in: str = ""
    uses_weights: bool = False
    uses_solver: bool = False
    uses_forecaster: bool = False
    watched: bool = False
    static: bool = False
    is_paced: bool = False


@runtime_checkable
class Policy(Protocol):
    """A strategy for residency and misses. Its constructor takes tuning only, all with defaults.

    Per layer: `plan` before the experts run, then `observe` and `prefetch` while they do. Only `plan` is on the
    critical path; the others cost time only where they outlast the layer.

    Contract: every active expert has exactly one Run; a GPU Run's expert is resident, in flight, or fetched in the
    same decision; no victim is in flight or active in this layer.

    A policy may have one method more, `executed(outcome: Outcome) -> None`: it is called when a layer's plan has been
    executed, in engines and in replays, with the expected and the actual seconds (types.Outcome: `plan.predicted_s`,
    `makespan_s`, each lane's, and `layer_s`, of which the sum is the time so far). A replay of one that has it goes
    layer by layer in Python.

    Between steps the number of slots may change. A policy that has to know has a method
    `resized(num_slots: int) -> FloatArray | None`: it answers what each expert's residency is worth [L, E], the least
    leaving first, and -inf in any case; None, as without it: who was demanded least. `view.residency.num_slots` is how
    many there are now.

    A class may declare `traits`, a Traits; else it has the usual ones.
    """

    name: str

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Begin anew; returns what should be resident before the first step, most wanted first."""
        ...

    def plan(self, demand: Demand, view: View) -> Decision:
        """Decide one layer. Must not change what it is given."""
        ...

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        ...

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Copies for an idle link, of experts that `demand`'s layer or any other will want; none is a good answer."""
        ...


class Kernelled:
    """Base of a policy that supplies kernels (policies/compiled.py) in place of the three methods below.

    Where one of them is overridden, or somebody calls them, the others do in Python what the kernels do, one layer at a
    time; `in_python` is handed over by deciders.methods.give_methods, which the scheduler calls.
    """

    traits = Traits()
    in_python: Any = None

    def kernels(self) -> PolicyKernels:
        """What a scheduler calls, after `start`."""
        raise NotImplementedError

    def plan(self, demand: Demand, view: View) -> Decision:
        """Decide one layer."""
        decided: Decision = self.in_python.plan(demand, view)
        return decided

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        self.in_python.observe(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Copies for an idle link."""
        copies: Sequence[Fetch] = self.in_python.prefetch(demand, view)
        return copies


def is_compiled(policy: object) -> bool:
    """Whether a policy's kernels speak for it: a subclass that overrides a method is one in Python."""
    order = type(policy).__mro__

    def place(method: str) -> int:
        return next((i for i, cls in enumerate(order) if method in vars(cls)), len(order))

    return place("kernels") < len(order) and all(place(m) >= place("kernels") for m in ("plan", "observe", "prefetch"))


def traits_of(policy: object) -> Traits:
    """What a policy, or a class of them, declares of itself. Raises InputError where that is no Traits."""
    declared = getattr(policy, "traits", Traits())
    if not isinstance(declared, Traits):
        raise InputError(f"the traits of {policy!r} are {declared!r}; declare them as traits = Traits(family=...)")
    return declared
