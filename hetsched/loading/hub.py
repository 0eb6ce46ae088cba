"""Where a model is: a folder or file here, or an id on the Hugging Face hub, which is fetched into the hub's cache.

An id is "owner/name"; of a repository of GGUF files, "owner/name/file.gguf".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from ..files import user_path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_GGUF = re.compile(rf"({HUB_ID.pattern})/([^\\]+\.gguf)", re.IGNORECASE)  # one file of a repository, or a shard
SHARD_NUMBER = re.compile(r"-\d{5}(-of-\d{5}\.gguf)$", re.IGNORECASE)
# Weights, configs, tokenizers, and the code of models that bring their own; all of it in the top folder.
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"]
UNWANTED = ["*/*", "consolidated*.safetensors"]


def located(path: str | Path, *, progress: bool = True) -> Path:
    """The path of a model: what is here goes before what the hub has, which is fetched unless its cache has it.

    `progress`: the hub's own bars. Raises InputError for an id that cannot be fetched.
    """
    place = user_path(path)
    if isinstance(path, Path) or place.exists():
        return place
    if file := HUB_GGUF.fullmatch(path):
        shards = SHARD_NUMBER.sub(r"-*\1", file[2])
        return _fetched(file[1], progress, [shards], []) / file[2]
    return _fetched(path, progress, WANTED, UNWANTED) if HUB_ID.fullmatch(path) and not is_gguf(place) else place


def config_place(name: str) -> Path:
    """The config.json of an id on the hub, and nothing else of it; for verbs that load no weights.

    Of one GGUF file of a repository: that file, where the hub's cache has it. Raises InputError for what is not there.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if file := HUB_GGUF.fullmatch(name):
        cached = try_to_load_from_cache(file[1], file[2])
        if not isinstance(cached, str):
            raise InputError(f"{name} is not in the hub's cache; fetch it, or give the model's own id and a format")
        return Path(cached)
    try:
        with _without_bars():
            return Path(hf_hub_download(name, "config.json"))
    except Exception as error:  # of the network, the hub, the disk; each has a class of its own
        said = " ".join(str(error).split())
        fix = "check the name, and the connection"
        raise InputError(f"{name} is no model here, and its config.json could not be fetched: {said}; {fix}") from error


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, by its name."""
    return path.suffix.lower() == ".gguf"


def _fetched(name: str, progress: bool, wanted: list[str], unwanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with contextlib.nullcontext() if progress else _without_bars():
            return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted))
    except Exception as error:  # of the network, the hub, the disk; each has a class of its own
        said = " ".join(str(error).split())
        raise InputError(f"{name} is no folder here, and it could not be fetched from the hub: {said}") from error


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Nor the hub's lines about every try."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden, verbosity = are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity(40)  # errors, as in the standard library
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not hidden:
            enable_progress_bars()


def shown_name(place: Path) -> str:
    """What a model that was located is called: its id where it lies in the hub's cache, else its folder's name."""
    whole = place.resolve()
    repository = whole.parent.parent.name
    if whole.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return whole.name
