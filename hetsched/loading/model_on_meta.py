"""The model that from_pretrained would make of a folder, without memory for its weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from ..errors import InputError
from ..machine.model_yaml import read_config_file
from .generation_file import read_generation
from .gguf_config import config_of
from .gguf_file import Gguf
from .hub import is_gguf
from .remote_code import at_work

CORRECT = "correct it, or download it again"


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The config of a checkpoint folder or GGUF file; a folder's own code is run only where that is trusted.

    Raises InputError.
    """
    if is_gguf(folder):
        return config_of(Gguf(folder))
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json; give a checkpoint folder")
    read_config_file(folder / "config.json")  # a library would believe any number in it
    read_generation(folder)
    with at_work(folder, f"{folder}/config.json is no model's that transformers knows", CORRECT):
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def on_meta(config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """The model of this config, its weights without memory. Raises InputError where there is none to be had."""
    folder = Path(config._name_or_path)
    with at_work(folder, f"transformers makes no model of {folder}/config.json", CORRECT), torch.device("meta"):
        return _maker(config, trust_remote_code)(copy.deepcopy(config), dtype=dtype)


def _maker(config: Any, trust_remote_code: bool) -> Callable[..., Any]:
    """What makes a model of the config."""
    auto: Any = transformers.AutoModelForCausalLM
    named: Any = getattr(transformers, (config.architectures or [""])[0], None)
    if type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {}):
        return functools.partial(auto.from_config, trust_remote_code=trust_remote_code)
    if named is None:
        raise InputError(f"transformers has no model for {config.model_type} ({config.architectures})")
    make: Callable[..., Any] = named._from_config
    return make


def resolved_dtype(dtype: str | torch.dtype | None, config: Any, stored: torch.dtype | None = None) -> torch.dtype:
    """The dtype that from_pretrained would load in; `stored`: the checkpoint's. Raises InputError for what is none."""
    if dtype in (None, "auto"):
        dtype = config.dtype or stored or torch.get_default_dtype()
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype {dtype!r} is none of torch's; give for example 'bfloat16' or 'float32'")
    return found


def plain_config(config: Any) -> Any:
    """The config of the same model unpacked."""
    plain = copy.deepcopy(config)
    if getattr(plain, "quantization_config", None) is not None:
        del plain.quantization_config
    return plain
