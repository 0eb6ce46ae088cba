"""RunStats: what a run came to, from plans and outcomes; the same for every executor."""

from __future__ import annotations

from typing import Any

from . import board as places
from .board import Board
from .board.watch import figures
from .dispatch.answers import ANSWERS
from .faults import Fault
from .types import Lane, Phase


class _Count:
    """A count of a run, in its place on the board."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __get__(self, owner: RunStats, _: type) -> int:
        return int(owner.board.counts[self.place])

    def __set__(self, owner: RunStats, value: int) -> None:
        owner.board.counts[self.place] = value


class _Seconds:
    """A sum of seconds, in its place on the board."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __get__(self, owner: RunStats, _: type) -> float:
        return float(owner.board.sums_s[self.place])

    def __set__(self, owner: RunStats, value: float) -> None:
        owner.board.sums_s[self.place] = value


class RunStats:
    """Sums over the layers of a run, in seconds and bytes; rates are properties. The numbers are the board's.

    A hit is an active expert that had wholly arrived when the router asked; a late prefetch was on its way.
    `decision_s` is on the critical path; `overlapped_s`, for learning and choosing prefetches, is spent while the lanes
    work and lengthens a layer only where it outlasts them. `host_s` is what the engine itself takes, decisions apart;
    on a real machine the wall's seconds contain it, which `host_inside_s` says. `faults` counts what was survived, by
    name of the fault. `moves`: strategies that have begun to decide in place of others (shadow.watchdog.Move).
    """

    layers, steps, tokens = _Count(places.N_LAYERS), _Count(places.N_STEPS), _Count(places.N_TOKENS)
    decode_tokens = _Count(places.N_DECODED)
    active, hits, late = _Count(places.N_ACTIVE), _Count(places.N_HITS), _Count(places.N_LATE)
    demanded_fetches, prefetches = _Count(places.N_FETCHES), _Count(places.N_PREFETCHES)
    wasted_prefetches, evictions = _Count(places.N_WASTED), _Count(places.N_EVICTIONS)
    decode_s, dense_s = _Seconds(places.S_DECODE), _Seconds(places.S_DENSE)
    decision_s, overlapped_s = _Seconds(places.S_DECISION), _Seconds(places.S_OVERLAPPED)
    makespan_s, predicted_s = _Seconds(places.S_MAKESPAN), _Seconds(places.S_PREDICTED)
    gpu_s, cpu_s = _Seconds(places.S_GPU), _Seconds(places.S_CPU)
    link_s, stall_s = _Seconds(places.S_LINK), _Seconds(places.S_STALL)
    host_s, host_inside_s = _Seconds(places.S_HOST), _Seconds(places.S_HOST_INSIDE)

    def __init__(self, expert_bytes: int, board: Board | None = None) -> None:
        self.expert_bytes = expert_bytes
        self.board = places.open_board(*places.new_board(1, 1, 0)) if board is None else board
        self.faults: dict[str, int] = {}
        self.last_fault: dict[str, str] = {}
        self.moves: list[Any] = []
        self._said: dict[str, int] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunStats) and self.as_dict() == other.as_dict()

    @property
    def solver_status(self) -> dict[str, int]:
        """How many decisions rest on an answer of each kind."""
        counted = zip(ANSWERS[1:], self.board.statuses[1:].tolist(), strict=False)
        found = {answer: times for answer, times in counted if times}
        return {**found, **{said: found.get(said, 0) + times for said, times in self._said.items()}}

    def record_answer(self, solver_status: str) -> None:
        """Count what a policy says of its solver's answer."""
        if solver_status:
            self._said[solver_status] = self._said.get(solver_status, 0) + 1

    def record_fault(self, fault: Fault, reason: str) -> None:
        """Count one fault that the run survived, and keep its reason until the next of its kind."""
        self.faults[fault.value] = self.faults.get(fault.value, 0) + 1
        self.last_fault[fault.value] = reason

    def record_host_inside(self, seconds: float) -> None:
        """Add what the engine itself took within seconds of the wall that are counted anyway."""
        self.host_s += seconds
        self.host_inside_s += seconds

    def record_tail(self, phase: Phase, seconds: float) -> None:
        """Add what a step takes after its last layer."""
        self.dense_s += seconds
        if phase is not Phase.PREFILL:
            self.decode_s += seconds

    @property
    def total_s(self) -> float:
        """Seconds of all layers: dense part, the engine's own, decision, experts."""
        return self.dense_s + (self.host_s - self.host_inside_s) + self.decision_s + self.makespan_s

    @property
    def tokens_per_s(self) -> float:
        """Decoded tokens per second, decisions and the engine's own time counted; 0 when nothing was decoded."""
        return self.decode_tokens / self.decode_s if self.decode_s > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of active experts that were wholly there at demand."""
        return self.hits / self.active if self.active else 0.0

    @property
    def bytes_moved(self) -> int:
        """Bytes of experts copied to the GPU."""
        return (self.demanded_fetches + self.prefetches) * self.expert_bytes

    def as_dict(self) -> dict[str, Any]:
        """Everything, with the rates, ready for JSON."""
        per_token = 1 / self.tokens if self.tokens else 0.0
        busy_s = self.total_s or 1.0
        return {
            "expert_bytes": self.expert_bytes,
            **{
                name: getattr(self, name)
                for name, kept in vars(RunStats).items()
                if isinstance(kept, (_Count, _Seconds))
            },
            "solver_status": self.solver_status,
            "predictions": figures(self.board.watch_RC),
            "faults": dict(self.faults),
            "last_fault": dict(self.last_fault),
            "moves": [move._asdict() for move in self.moves],
            "total_s": self.total_s,
            "tokens_per_s": self.tokens_per_s,
            "hit_rate": self.hit_rate,
            "late_share": self.late / self.active if self.active else 0.0,
            "bytes_moved": self.bytes_moved,
            "bytes_per_token": self.bytes_moved * per_token,
            "wasted_bytes_per_token": self.wasted_prefetches * self.expert_bytes * per_token,
            "stall_s_per_token": self.stall_s * per_token,
            "decision_s_per_token": self.decision_s * per_token,
            "host_s_per_token": self.host_s * per_token,
            "utilisation": {lane.value: getattr(self, f"{lane.value}_s") / busy_s for lane in Lane},
        }
