"""Between a board's rows and the objects that people and Python policies see.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..board import (
    ACTIVE,
    ARRIVED,
    COPIES,
    EVICTS,
    EXPERTS,
    FETCHES,
    FLYING,
    FREE_SLOT,
    KEPT,
    LAYER,
    LAYERS,
    LINK_FREE_S,
    MOST_COPIES,
    NEW_REQUEST,
    PREDICTED_S,
    RUNS,
    STATUS,
    WEIGHTED,
    WRONG_AT,
    Board,
)
from ..dispatch.answers import ANSWERS
from ..policy import Decision
from ..residency import ResidencyError, State
from ..types import Demand, Evict, ExpertId, Fetch, Lane, LinkState, Plan, Run

RUN_CAUSES = ("resident", "in flight", "fetched", "the CPU ends sooner", "missed")  # by the numbers of board/rows.py
FETCH_CAUSES = ("demanded: fetching beats the CPU", "missed")
COPY_CAUSES = (
    "prefetch: expected to save time",
    "prefetch: likely in the next layer",
    "prefetch: busier in the last window",
    "prefetch: used more of late",
    "prefetch: placed here",
    "prefetch: hot by its level",
    "prefetch: named by the draft",
    "prefetch: likely in a request like this",
)
LANES = (Lane.CPU, Lane.GPU)


class PlanError(RuntimeError):
    """A policy's decision that breaks the contract; a fault of the policy, never of the user."""


class ToldPlan(Plan):
    """A plan as a board tells it: runs are numbers, as in Views.runs, until somebody looks at them.

    `lanes`: as the method says, where these are known.
    """

    __slots__ = ("_lanes", "_numbers", "_views")

    def __init__(
        self,
        views: Views,
        demand: Demand,
        numbers: Sequence[int],
        fetches: tuple[Fetch, ...],
        evicts: tuple[Evict, ...],
        predicted_s: float,
        solver_status: str,
        lanes: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> None:
        self._views, self._numbers, self._runs, self._lanes = views, numbers, None, lanes
        self.demand, self.fetches, self.evicts = demand, fetches, evicts
        self.predicted_s, self.decision_s, self.solver_status = predicted_s, 0.0, solver_status

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every active expert once, with its lane."""
        if self._runs is None:
            self._runs = self._views.runs(self.demand, self._numbers)
        return self._runs

    def lanes(self) -> tuple[Sequence[int], Sequence[int]]:
        """What the GPU computes and what the CPU does, in order: places among the active experts."""
        return self._lanes or super().lanes()


class Views:
    """The rows of one board as objects, and objects as its rows."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._experts = int(board.at[EXPERTS])
        layers, experts = range(int(board.at[LAYERS])), range(self._experts)
        self._ids = [[ExpertId(layer, e) for e in experts] for layer in layers]

    def tell(self, demand: Demand, link: LinkState) -> None:
        """Put a layer's demand and the link on the board."""
        board, active = self._board, len(demand.active)
        board.at[LAYER : ACTIVE + 1] = demand.layer, demand.num_tokens, demand.phase, demand.step, active
        board.at[NEW_REQUEST] = demand.new_request
        board.active_N[:active], board.tokens_N[:active] = demand.active, demand.tokens
        board.now[KEPT] = 0.0
        if demand.kept_N is not None:
            board.now[KEPT], board.kept_N[:active] = demand.num_kept, demand.kept_N
        board.at[WEIGHTED] = demand.weights_E is not None
        if demand.weights_E is not None:
            board.weights_E[:] = demand.weights_E
        self.tell_link(link)

    def count(self, demand: Demand) -> None:
        """Add a layer's demand to what has been asked for so far."""
        seen_E = self._board.seen_F[demand.layer * self._experts : (demand.layer + 1) * self._experts]
        seen_E[demand.active] += demand.tokens

    def tell_link(self, link: LinkState) -> None:
        """Put the link on the board."""
        board, free_s, arrived, in_flight = self._board, link.free_s, link.arrived, link.in_flight
        board.now[LINK_FREE_S] = free_s
        board.at[FLYING], board.at[ARRIVED] = len(in_flight), len(arrived)
        if arrived:
            board.arrived_F[: len(arrived)] = [self.flat(expert) for expert in arrived]
        if in_flight:
            board.flying_F[: len(in_flight)] = [self.flat(expert) for expert, _ in in_flight]
            board.left_s_F[: len(in_flight)] = [left_s for _, left_s in in_flight]

    def plan(self, demand: Demand) -> Plan:
        """What the board says was decided on this demand, which is the one that it was told last."""
        board, at = self._board, self._board.at
        place_of = {e: at for at, e in enumerate(demand.active)}
        experts, _, lanes, causes = board.runs_4N[:, : at[RUNS]].tolist()
        numbers = [*map(place_of.__getitem__, experts), *lanes, *causes]
        moved = self.fetches(), self.evicts()
        return ToldPlan(self, demand, numbers, *moved, float(board.now[PREDICTED_S]), ANSWERS[at[STATUS]])

    def fetches(self) -> tuple[Fetch, ...]:
        """The copies that the layer demands."""
        rows = self._board.fetches_3N[:, : self._board.at[FETCHES]].T.tolist()
        return tuple([Fetch(self.id(f), self.id_or_none(v), False, FETCH_CAUSES[cause]) for f, v, cause in rows])

    def evicts(self) -> tuple[Evict, ...]:
        """Residents that are given up."""
        return tuple([Evict(self.id(f), "given up") for f in self._board.evicts_N[: self._board.at[EVICTS]].tolist()])

    def runs(self, demand: Demand, numbers: Sequence[int]) -> tuple[Run, ...]:
        """Runs of one layer: of all in order the places among the active experts, then lanes, then causes."""
        n, ids = len(numbers) // 3, self._ids[demand.layer]
        rows = zip(numbers[:n], numbers[n : 2 * n], numbers[2 * n :], strict=True)
        active, tokens = demand.active, demand.tokens
        return tuple([Run(ids[active[at]], tokens[at], LANES[lane], RUN_CAUSES[cause]) for at, lane, cause in rows])

    def copies(self) -> list[Fetch]:
        """The copies for an idle link that the board says were chosen."""
        return self.copies_of(self._board.copies_3W[:, : self._board.at[COPIES]].T.ravel().tolist())

    def copies_of(self, numbers: Sequence[int]) -> list[Fetch]:
        """The same of copies one after another: the expert, flat, its victim, and why."""
        rows = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        return [Fetch(self.id(f), self.id_or_none(v), True, COPY_CAUSES[why]) for f, v, why in rows]

    def write(self, decision: Decision) -> None:
        """A Python policy's decision as rows. Raises PlanError for more of anything than there can be."""
        board, at, experts = self._board, self._board.at, self._experts
        runs, fetches, evicts = decision.runs, decision.fetches, decision.evicts
        if len(runs) > experts or len(fetches) > experts or len(evicts) > len(board.evicts_N):
            raise PlanError(f"{len(runs)} runs, {len(fetches)} fetches and {len(evicts)} evictions in one layer")
        at[RUNS], at[FETCHES], at[EVICTS], at[STATUS] = len(runs), len(fetches), len(evicts), 0
        if runs:
            board.runs_4N[:3, : len(runs)] = list(
                zip(*[(run.expert.expert, run.num_tokens, run.lane is Lane.GPU) for run in runs], strict=True)
            )
        if fetches:
            board.fetches_3N[:2, : len(fetches)] = self._pairs(fetches)
        if evicts:
            board.evicts_N[: len(evicts)] = [self.flat(evict.expert) for evict in evicts]

    def write_copies(self, fetches: Sequence[Fetch]) -> None:
        """Its copies for an idle link, at most MOST_COPIES of them."""
        if len(fetches) > MOST_COPIES:
            raise PlanError(f"{len(fetches)} prefetches at once, at most {MOST_COPIES} may be")
        self._board.at[COPIES] = len(fetches)
        if fetches:
            self._board.copies_3W[:2, : len(fetches)] = self._pairs(fetches)

    def _pairs(self, fetches: Sequence[Fetch]) -> list[list[int]]:
        victims = [FREE_SLOT if fetch.victim is None else self.flat(fetch.victim) for fetch in fetches]
        return [[self.flat(fetch.expert) for fetch in fetches], victims]

    def flat(self, expert: ExpertId) -> int:
        """layer * E + expert. Raises PlanError for an expert that no layer has."""
        layer, e = expert
        if not (0 <= layer < len(self._ids) and 0 <= e < self._experts):
            raise PlanError(f"{expert} is no expert of this model")
        return layer * self._experts + e

    def id(self, f: int) -> ExpertId:
        """The expert with this flat number."""
        layer, e = divmod(f, self._experts)
        return self._ids[layer][e]

    def id_or_none(self, f: int) -> ExpertId | None:
        """The same for a victim, None for a free slot."""
        return None if f == FREE_SLOT else self.id(f)

    def refuse(self, wrong: int, policy: str) -> None:
        """Raise PlanError or ResidencyError for what the contract has against a decision (contract.FINE: nothing)."""
        if not wrong:
            return
        from ..board import contract  # numba takes long to import

        board, at = self._board, self._board.at
        expert, state = self.id(int(at[WRONG_AT])), State(board.state_F[at[WRONG_AT]]).name
        ran = sorted(board.runs_4N[0, : at[RUNS]].tolist())
        told = {
            contract.EVICTS_ACTIVE: f"{policy} evicts {expert}, which is active",
            contract.RUNS_ABSENT: f"{policy} runs {expert} on the GPU, where it is not",
            contract.RUNS_OTHERS: f"{policy} runs experts {ran}, demanded: {board.active_N[: at[ACTIVE]].tolist()}",
        }
        if wrong in told:
            raise PlanError(told[wrong])
        moved = {
            contract.EVICTS_ABSENT: f"was evicted while {state}, not RESIDENT",
            contract.FETCHES_PRESENT: f"was fetched while {state}, not ABSENT",
            contract.NO_SLOT: "was fetched into a free slot, and there is none",
        }
        raise ResidencyError(f"layer {expert.layer} expert {expert.expert} {moved[wrong]}")
