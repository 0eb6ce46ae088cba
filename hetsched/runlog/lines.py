"""The lines of a run log as objects, and objects as lines. The schema in words: hetsched/runlog/__init__.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..machine.profile_yaml import profile_of
from .figures import MOST_S, count_of, counts_of, seconds_of, text_of

SCHEMA = "hetsched-run-log/1"
CLOCKS = ("emulated", "simulated", "measured")
PHASES = {0: "prefill", 1: "decode", 2: "verify", 255: "unknown"}  # by number of types.Phase
ON_GPU = "rif"  # letters of `lane`
KINDS = ("fetch", "prefetch", "draft")


class Move(NamedTuple):
    """One copy set out: who, into which slot, whom it displaces; `gain_s`: what a prefetch was expected to save."""

    kind: str
    layer: int
    expert: int
    slot: int
    out: tuple[int, int] | None
    gain_s: float | None


class Link(NamedTuple):
    """The copy engine at a decision: when a demanded copy would start; who is under way, with seconds left."""

    free_s: float
    flying: tuple[tuple[int, int, float], ...]


class Layer(NamedTuple):
    """One layer of one step; see the schema for what each field says."""

    step: int
    layer: int
    phase: str
    tokens: int
    new_request: bool
    begin_s: float
    end_s: float
    dense_s: float
    host_s: float
    decide_s: float
    predicted_s: float
    measured_s: float
    beside_s: float
    stall_s: float
    gpu_s: float
    cpu_s: float
    link_s: float
    copied: int
    copied_s: float
    experts: tuple[int, ...]
    counts: tuple[int, ...]
    lane: str
    solver: str
    slots: int
    moves: tuple[Move, ...]
    evicts: tuple[tuple[int, int], ...]
    link: Link | None

    @property
    def decided_s(self) -> float:
        """When the lanes began: the decision had been made."""
        return self.end_s - self.measured_s

    @property
    def hits(self) -> int:
        """Active experts that were wholly there."""
        return self.lane.count("r") + self.lane.count("h")


class Event(NamedTuple):
    """Something out of the ordinary."""

    at_s: float
    step: int
    layer: int | None
    name: str
    text: str


class Frame(NamedTuple):
    """Who held slots before a step, by layer."""

    step: int
    experts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class End:
    """What a run came to."""

    steps: int
    layers: int
    tokens: int
    seconds: float
    dropped: int
    dropped_lines: int
    stats: dict[str, Any]


@dataclass(frozen=True)
class Header:
    """What was run on what, by whom. `model`, `timed_as`, `machine` as in the schema."""

    hetsched: str
    date: str
    clock: str
    model: dict[str, Any]
    timed_as: dict[str, Any] | None
    machine: dict[str, Any]
    policy: str
    solver: str
    forecaster: str
    slots: int
    capacity_bytes: int
    lossless: bool
    resident: tuple[tuple[int, ...], ...]
    popularity: tuple[tuple[float, ...], ...] | None

    @property
    def num_layers(self) -> int:
        """MoE layers of the model."""
        return int(self.model["layers"])

    @property
    def num_experts(self) -> int:
        """Experts of a layer."""
        return int(self.model["experts"])

    @cached_property
    def geometry(self) -> MoEGeometry:
        """The model's shape, as slots hold it."""
        return geometry_of(self.model)

    @cached_property
    def timing(self) -> MoEGeometry:
        """The shape whose seconds were taken."""
        return geometry_of(self.timed_as or self.model)

    @cached_property
    def profile(self) -> HardwareProfile:
        """The machine. Raises InputError where the header's profile is none."""
        return profile_of(self.machine["profile"])


def model_facts(geometry: MoEGeometry) -> dict[str, Any]:
    """A geometry as a header holds it."""
    return {
        "name": geometry.name,
        "layers": geometry.num_layers,
        "experts": geometry.num_experts,
        "top_k": geometry.top_k,
        "hidden": geometry.hidden,
        "ffn": geometry.ffn,
        "dtype": geometry.dtype,
        "expert_bytes": geometry.expert_bytes,
        "matrices": geometry.matrices,
        "bias": geometry.bias,
        "dense_params": geometry.dense_params,
        "other_params": geometry.other_params,
        "experts_by_layer": list(geometry.experts_L) or None,
    }


def event_of(line: Mapping[str, Any]) -> Event:
    """The event of a line. Raises as layer_of() does."""
    layer = line["layer"]
    place = count_of(line["step"]), None if layer is None else count_of(layer)
    return Event(seconds_of(line["at_s"]), *place, text_of(line["name"]), text_of(line["text"]))


def end_of(line: Mapping[str, Any]) -> End:
    """The end of a line. Raises as layer_of() does."""
    counts = {name: count_of(line[name]) for name in ("steps", "layers", "tokens", "dropped", "dropped_lines")}
    if not isinstance(line["stats"], dict):
        raise ValueError("stats is no object")
    return End(seconds=seconds_of(line["seconds"]), stats=line["stats"], **counts)


def geometry_of(facts: Mapping[str, Any]) -> MoEGeometry:
    """The geometry that a header holds."""
    numbers = {name: facts[name] for name in ("top_k", "hidden", "ffn", "matrices", "dense_params", "other_params")}
    return MoEGeometry(
        facts["name"],
        num_layers=facts["layers"],
        num_experts=facts["experts"],
        dtype=facts["dtype"],
        bias=facts["bias"],
        expert_bytes_override=facts["expert_bytes"],
        experts_L=tuple(facts["experts_by_layer"] or ()),
        **numbers,
    )


def header_line(header: Header) -> dict[str, Any]:
    """The first line."""
    return {"schema": SCHEMA, "kind": "header", **asdict(header)}


def layer_line(row: Layer) -> dict[str, Any]:
    """A layer's line; seconds to the nanosecond."""
    link = row.link
    return {
        "kind": "layer",
        "step": row.step,
        "layer": row.layer,
        "phase": row.phase,
        "tokens": row.tokens,
        "new_request": row.new_request,
        "begin_s": seconds(row.begin_s),
        "end_s": seconds(row.end_s),
        "dense_s": seconds(row.dense_s),
        "host_s": seconds(row.host_s),
        "decide_s": seconds(row.decide_s),
        "predicted_s": seconds(row.predicted_s),
        "measured_s": seconds(row.measured_s),
        "beside_s": seconds(row.beside_s),
        "stall_s": seconds(row.stall_s),
        "busy": {"gpu": seconds(row.gpu_s), "cpu": seconds(row.cpu_s), "link": seconds(row.link_s)},
        "copied": (row.copied, seconds(row.copied_s)),
        "experts": row.experts,
        "counts": row.counts,
        "lane": row.lane,
        "solver": row.solver,
        "slots": row.slots,
        "moves": [(*move[:5], None if move.gain_s is None else seconds(move.gain_s)) for move in row.moves],
        "evicts": row.evicts,
        "link": link and (seconds(link.free_s), [(l, e, seconds(s)) for l, e, s in link.flying]),
    }


def layer_of(line: Mapping[str, Any]) -> Layer:
    """The layer of a line. Raises KeyError, TypeError or ValueError for what is none."""
    busy, link = line["busy"], line["link"]
    experts, counts, lane = counts_of(line["experts"]), counts_of(line["counts"]), line["lane"]
    if not len(experts) == len(counts) == len(lane) or set(lane) - set("rhifcx"):
        raise ValueError(
            f"{len(experts)} experts, {len(counts)} counts and lanes {lane!r}; one of r, h, i, f, c, x each"
        )
    if line["phase"] not in PHASES.values():
        raise ValueError(f"phase {line['phase']!r}; it is one of {', '.join(PHASES.values())}")
    values = [count_of(line["step"]), count_of(line["layer"]), line["phase"], count_of(line["tokens"])]
    values += [bool(line["new_request"])]
    values += [seconds_of(line[name]) for name in SECONDS]
    values += [seconds_of(busy[name]) for name in ("gpu", "cpu", "link")]
    copied, copied_s = line["copied"]
    values += [count_of(copied), seconds_of(copied_s), experts, counts, lane, str(line["solver"])]
    values += [count_of(line["slots"])]
    values += [tuple([_move(row) for row in line["moves"]]), tuple([_pair(row) for row in line["evicts"]])]
    return Layer._make([*values, None if link is None else _link(link)])


SECONDS = Layer._fields[5:14]


def seconds(value: float) -> float:
    """Seconds to the nanosecond, finite."""
    return round(value, 9) if math.isfinite(value) else MOST_S


def _pair(row: Any) -> tuple[int, int]:
    layer, expert = row
    return count_of(layer), count_of(expert)


def _move(row: Any) -> Move:
    kind, layer, expert, slot, out, gain_s = row
    if kind not in KINDS:
        raise ValueError(f"a move of kind {kind!r}; it is one of {', '.join(KINDS)}")
    gained = None if gain_s is None else seconds_of(gain_s)
    return Move(kind, *_pair((layer, expert)), count_of(slot), None if out is None else _pair(out), gained)


def _link(row: Any) -> Link:
    free_s, flying = row
    under_way = tuple([(*_pair((layer, expert)), seconds_of(left_s)) for layer, expert, left_s in flying])
    return Link(seconds_of(free_s), under_way)
