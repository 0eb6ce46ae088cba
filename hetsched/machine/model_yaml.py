"""Model files, `schema: hetsched-model/1`: what of a config.json decides a geometry, and published totals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..geometry import WEIGHT_BITS, MoEGeometry, from_config, is_installed_format, require_sane_sizes
from ..reading import read_json
from .units import number
from .yaml_lines import Node, read_yaml

SCHEMA = "hetsched-model/1"


@dataclass(frozen=True)
class ModelCard:
    """A gallery model: geometry as published, dtypes it is commonly run in, and figures to check it against.

    `repository`: its id on the Hugging Face hub. `checkpoint_bytes`: size of the published weights, 0 where not given.
    """

    geometry: MoEGeometry
    title: str
    repository: str
    dtypes: tuple[str, ...]
    config: dict[str, Any]
    total_params: float
    active_params: float
    checkpoint_bytes: float
    source: str


def load_model_card(path: Path | str) -> ModelCard:
    """The card in a model file. Raises FileError with every problem by key and line."""
    card: ModelCard | None = read_yaml(Path(path), SCHEMA, _read)
    if card is None:
        raise InputError(f"{path} holds no model")
    return card


def load_geometry(path: Path | str, dtype: str | None = None) -> MoEGeometry:
    """Geometry of a model file, a config.json, or a folder that holds one; `dtype` None: as published."""
    place = Path(path)
    if place.suffix in (".yaml", ".yml"):
        geometry = load_model_card(place).geometry
        return geometry if dtype is None else geometry.with_dtype(dtype)
    config = load_config(place)
    return from_config(config, str(config.get("_name_or_path") or _config_file(place).resolve().parent.name), dtype)


def load_config(path: Path | str) -> dict[str, Any]:
    """What of its config decides a model's geometry: all of a config.json, in a folder too, or a model file's part."""
    place = Path(path)
    return load_model_card(place).config if place.suffix in (".yaml", ".yml") else read_config_file(_config_file(place))


def _config_file(place: Path) -> Path:
    return place / "config.json" if place.is_dir() else place


def read_config_file(file: Path) -> dict[str, Any]:
    """The object in a config.json. Raises InputError for what is none, or has sizes that no model has."""
    config = read_json(file, "a model's config.json", "give a model's config.json")
    if not isinstance(config, dict):
        raise InputError(f"{file} is no model config: it holds no JSON object")
    require_sane_sizes(config)
    return config


def _read(root: Node) -> ModelCard | None:
    name, dtype = root.text("name", required=True), root.text("dtype", required=True)
    dtypes = root.get("dtypes")
    config = root.get("config", required=True)
    published = root.get("published", required=True)
    title, repository = root.text("title"), root.text("repository", required=True)
    variants = tuple(str(item.value) for item in dtypes.items()) if dtypes else (dtype,)
    for variant in dict.fromkeys((dtype, *variants)):
        if not is_installed_format(variant):
            (dtypes or root).note(f"{variant!r} is no dtype; allowed: {', '.join(WEIGHT_BITS)}")
    if config is None or published is None or root.problems:
        return None
    figures = {key: _figure(published, key) for key in ("total_params", "active_params", "checkpoint_bytes")}
    source = published.text("source", required=True)
    published.only()
    values = config.value
    if not isinstance(values, dict):
        config.note(f"must be a mapping, is {config.shown}")
        return None
    try:
        geometry = from_config(values, name, dtype)
        for variant in variants:
            geometry.with_dtype(variant)
    except InputError as error:
        config.note(str(error))
        return None
    return ModelCard(
        geometry=geometry,
        title=title,
        repository=repository,
        dtypes=variants,
        config=values,
        total_params=figures["total_params"],
        active_params=figures["active_params"],
        checkpoint_bytes=figures["checkpoint_bytes"],
        source=source,
    )


def _figure(node: Node, name: str) -> float:
    child = node.get(name, required=name != "checkpoint_bytes")
    value = number(child.value) if child else 0.0
    if value is None and child is not None:
        child.note(f"must be a number, is {child.shown}")
    return value or 0.0
