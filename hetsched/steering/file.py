"""Steering files, `schema: hetsched-steer/1`: experts to force on or off, by MoE layer, for one model. YAML or JSON.

    schema: hetsched-steer/1
    model: demo                 # as people call it
    geometry: {layers: 30, experts: 16, top_k: 4, hidden: 576}
    routers: 0f3a9c27b1de       # digest of the router weights; left out, any model of that geometry is steered
    layers:
    - layer: 3                  # MoE layers from 0, as in traces
      activate: [5]             # at most top_k
      deactivate: [0, 11]       # at least top_k are left

What a steering does to a token is in hetsched/integrations/steered_router.py. It is lossy: other tokens are meant.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import replacing
from ..geometry import MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, MoEGeometry
from ..machine.yaml_lines import Node, dump_yaml, read_yaml

SCHEMA = "hetsched-steer/1"
SUFFIXES = (".json", ".yaml", ".yml")


class Forced(NamedTuple):
    """Experts of one layer that every token chooses, and those that none does; ascending."""

    activate: tuple[int, ...] = ()
    deactivate: tuple[int, ...] = ()


class SteeredShape(NamedTuple):
    """The geometry that a steering is for: MoE layers, experts of the largest of them, chosen per token, width."""

    layers: int
    experts: int
    top_k: int
    hidden: int


@dataclass(frozen=True)
class Steering:
    """What a steering file says.

    `routers`: digest of the router weights, "" for any; `name`: of the file, for messages.
    """

    model: str
    shape: SteeredShape
    layers: dict[int, Forced]
    routers: str = ""
    name: str = "the steering"

    @property
    def activated(self) -> int:
        """Experts forced on, of all layers."""
        return sum(len(forced.activate) for forced in self.layers.values())

    @property
    def deactivated(self) -> int:
        """Experts forced off, of all layers."""
        return sum(len(forced.deactivate) for forced in self.layers.values())

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for what is forced, whatever the file is called."""
        return hashlib.sha256(json.dumps(sorted(self.layers.items())).encode()).hexdigest()[:12]

    def facts(self) -> dict[str, Any]:
        """How statistics and traces say that their model was steered."""
        return {
            "file": self.name,
            "digest": self.digest,
            "activated": self.activated,
            "deactivated": self.deactivated,
            "layers": len(self.layers),
        }

    def check_model(self, geometry: MoEGeometry) -> None:
        """Raise InputError for a model of other layers, experts or width. How many it chooses, its routers know."""
        ours = self.shape._replace(top_k=0)
        theirs = SteeredShape(geometry.num_layers, geometry.num_experts, 0, geometry.hidden)
        if ours != theirs:
            raise InputError(f"{self.name} steers {self.model}, {_words(ours)}; this model has {_words(theirs)}")
        for layer, forced in self.layers.items():
            experts = geometry.experts_L[layer] if geometry.experts_L else geometry.num_experts
            if problem := _problem(forced, experts, self.shape.top_k):
                raise InputError(f"{self.name}, layer {layer}: {problem}")


def read_steering(path: str | Path) -> Steering:
    """The steering in a file. Raises FileError, an InputError, with every problem of it by key and line."""
    path = Path(path)
    read: Steering = read_yaml(path, SCHEMA, lambda root: _read(root, path.name))
    return read


def save_steering(steering: Steering, path: Path, **about: Any) -> None:
    """Write the file whole or not at all, JSON or YAML by its suffix; `about` says where it comes from.

    Raises InputError for another suffix or a place that is none.
    """
    check_suffix(path)
    document = {
        "schema": SCHEMA,
        "model": steering.model,
        "geometry": steering.shape._asdict(),
        **({"routers": steering.routers} if steering.routers else {}),
        **({"about": about} if about else {}),
        "layers": [
            {"layer": layer, "activate": list(forced.activate), "deactivate": list(forced.deactivate)}
            for layer, forced in sorted(steering.layers.items())
        ],
    }
    text = json.dumps(document, indent=1) if path.suffix.lower() == ".json" else dump_yaml(document)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_suffix(path: Path) -> None:
    """Raise InputError for the name of something else than a steering file."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name!r} is no name of a steering file; let it end in {', '.join(SUFFIXES)}")


def _read(root: Node, name: str) -> Steering:
    shape = _read_shape(root.get("geometry", required=True))
    root.get("about")
    listed = root.get("layers", required=True)
    layers: dict[int, Forced] = {}
    for node in listed.items() if listed else []:
        layer = node.whole("layer", 0, shape.layers - 1, -1, required=True)
        forced = Forced(*(_read_experts(node, key, shape.experts) for key in ("activate", "deactivate")))
        if problem := _problem(forced, shape.experts, shape.top_k):
            node.note(problem)
        if layer in layers:
            node.note(f"layer {layer} appears twice")
        node.only()
        layers[layer] = forced
    if listed is not None and not any(any(forced) for forced in layers.values()):
        listed.note("force no expert; name some to activate or to deactivate")
    layers = {layer: forced for layer, forced in sorted(layers.items()) if any(forced)}
    return Steering(root.text("model", "a model"), shape, layers, root.text("routers"), name)


def _read_shape(node: Node | None) -> SteeredShape:
    if node is None:
        return SteeredShape(MAX_LAYERS, MAX_EXPERTS, MAX_EXPERTS, MAX_WIDTH)
    experts = node.whole("experts", 1, MAX_EXPERTS, MAX_EXPERTS, required=True)
    shape = SteeredShape(
        node.whole("layers", 1, MAX_LAYERS, MAX_LAYERS, required=True),
        experts,
        node.whole("top_k", 1, experts, experts, required=True),
        node.whole("hidden", 1, MAX_WIDTH, MAX_WIDTH, required=True),
    )
    node.only()
    return shape


def _read_experts(node: Node, key: str, experts: int) -> tuple[int, ...]:
    listed = node.get(key)
    found = []
    for item in listed.items() if listed else []:
        expert = item.value
        if isinstance(expert, bool) or not isinstance(expert, int) or not 0 <= expert < experts:
            item.note(f"must be an expert from 0 to {experts - 1}, is {item.shown}")
        elif expert in found:
            item.note(f"expert {expert} appears twice")
        else:
            found.append(expert)
    return tuple(sorted(found))


def _problem(forced: Forced, experts: int, top_k: int) -> str:
    """What no router of so many experts could do; "" where it can."""
    if both := sorted(set(forced.activate) & set(forced.deactivate)):
        return f"expert {both[0]} is both activated and deactivated; drop one of the two"
    if len(forced.activate) > top_k:
        return f"{len(forced.activate)} experts are activated, and a token chooses {top_k}; activate at most {top_k}"
    if (left := experts - len(forced.deactivate)) < top_k:
        return f"{left} of {experts} experts are left, and a token chooses {top_k}; deactivate fewer"
    if out := [expert for expert in (*forced.activate, *forced.deactivate) if expert >= experts]:
        return f"expert {out[0]} is none of the layer's {experts}"
    return ""


def _words(shape: SteeredShape) -> str:
    return f"{shape.layers} layers of {shape.experts} experts and width {shape.hidden}"
