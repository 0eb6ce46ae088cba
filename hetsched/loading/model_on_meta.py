"""The model that from_pretrained would make of a folder, without memory for its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers

from ..errors import InputError
from ..model_yaml import read_config_file
from .checkpoint import Checkpoint


def read_config(folder: Path) -> Any:
    """The config of a checkpoint folder. Raises InputError."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json; give a checkpoint folder")
    read_config_file(folder / "config.json")  # a library would believe any number in it
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}/config.json is no model's that transformers knows: {error}") from error


def on_meta(config: Any, dtype: torch.dtype) -> Any:
    """The model of this config, its weights without memory. Raises InputError where transformers has none."""
    auto: Any = transformers.AutoModelForCausalLM
    named: Any = getattr(transformers, (config.architectures or [""])[0], None)
    if type(config) in auto._model_mapping:
        make = auto.from_config
    elif named is not None:
        make = named._from_config
    else:
        raise InputError(f"transformers has no model for {config.model_type} ({config.architectures})")
    with torch.device("meta"):
        return make(copy.deepcopy(config), dtype=dtype)


def resolved_dtype(dtype: str | torch.dtype | None, config: Any, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype that from_pretrained would load in. Raises InputError for what is none."""
    if dtype in (None, "auto"):
        dtype = config.dtype or checkpoint.float_dtype or torch.get_default_dtype()
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype {dtype!r} is none of torch's; give for example 'bfloat16' or 'float32'")
    return found
