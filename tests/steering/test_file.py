"""Steering files: written, read again, and every mistake in one line that names it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.steering.file import Forced, SteeredShape, Steering, read_steering, save_steering

STEERING = Steering("tiny", SteeredShape(3, 8, 2, 32), {0: Forced((1, 2), ()), 2: Forced((7,), (0, 3))}, "0123456789ab")
GEOMETRY = MoEGeometry("tiny", num_layers=3, num_experts=8, top_k=2, hidden=32, ffn=16)


@pytest.mark.parametrize("name", ["steer.yaml", "steer.yml", "steer.json", "STEER.JSON"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    save_steering(STEERING, tmp_path / name, prompts_a="digest")
    read = read_steering(tmp_path / name)
    assert read == replace(STEERING, name=name)
    assert read.digest == STEERING.digest
    assert read.digest != replace(STEERING, layers={0: Forced((1,), (2,))}).digest
    assert (read.activated, read.deactivated) == (3, 2)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="let it end in"):
        save_steering(STEERING, tmp_path / "steer.toml")
    assert list(tmp_path.iterdir()) == []


def document(**changes: Any) -> dict[str, Any]:
    layers = [{"layer": 0, "activate": [1], "deactivate": [2]}]
    geometry = {"layers": 3, "experts": 8, "top_k": 2, "hidden": 32}
    return {"schema": "hetsched-steer/1", "model": "tiny", "geometry": geometry, "layers": layers, **changes}


MISTAKES = {
    "both activated and deactivated": document(layers=[{"layer": 0, "activate": [1, 2], "deactivate": [2]}]),
    "a token chooses 2; activate at most 2": document(layers=[{"layer": 0, "activate": [1, 2, 3]}]),
    "1 of 8 experts are left": document(layers=[{"layer": 0, "deactivate": [0, 1, 2, 3, 4, 5, 6]}]),
    "must be an expert from 0 to 7, is '8'": document(layers=[{"layer": 0, "activate": [8]}]),
    "must be an expert from 0 to 7, is '-1'": document(layers=[{"layer": 0, "deactivate": [-1]}]),
    "must be an expert from 0 to 7, is 'x'": document(layers=[{"layer": 0, "deactivate": ["x"]}]),
    "expert 1 appears twice": document(layers=[{"layer": 0, "activate": [1, 1]}]),
    "layer 0 appears twice": document(layers=[{"layer": 0, "activate": [1]}, {"layer": 0, "activate": [2]}]),
    "must be a whole number from 0 to 2, is '3'": document(layers=[{"layer": 3, "activate": [1]}]),
    "force no expert": document(layers=[{"layer": 0, "activate": []}]),
    "must be hetsched-steer/1": document(schema="hetsched-steer/2"),
    "geometry: is missing": {k: v for k, v in document().items() if k != "geometry"},
    "top_k: must be a whole number from 1 to 8": document(
        geometry={"layers": 3, "experts": 8, "top_k": 9, "hidden": 32}
    ),
    "is not a known key; did you mean 'activate'": document(layers=[{"layer": 0, "activated": [1]}]),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(tmp_path: Path, message: str) -> None:
    path = tmp_path / "steer.json"
    path.write_text(json.dumps(MISTAKES[message]))
    with pytest.raises(InputError) as caught:
        read_steering(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_models_steering_is_refused() -> None:
    STEERING.check_model(GEOMETRY)
    STEERING.check_model(replace(GEOMETRY, top_k=1))  # configs have many names for it; routers know
    for change in ({"num_layers": 2}, {"num_experts": 16}, {"hidden": 64}):
        with pytest.raises(InputError, match="steers tiny, 3 layers of 8 experts and width 32; this model has"):
            STEERING.check_model(replace(GEOMETRY, **change))


def test_a_layer_with_fewer_experts_than_the_largest() -> None:
    with pytest.raises(InputError, match="layer 2: expert 7 is none of the layer's 6"):
        STEERING.check_model(replace(GEOMETRY, experts_L=(8, 8, 6)))
