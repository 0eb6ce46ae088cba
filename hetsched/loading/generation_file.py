"""How a checkpoint's authors would have it generate: generation_config.json, its values checked before all else.

transformers passes over a file that is no JSON, and believes values of any type until a step computes with them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from ..errors import InputError
from ..geometry.checks import brief
from ..reading import read_json, refusing

FILE = "generation_config.json"
FIX = "correct it, or remove it"
MOST = 2**31 - 1  # of ids and lengths
_IDS = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
_RATES = ("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty")
_COUNTS = ("top_k", "num_beams", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "no_repeat_ngram_size")
_FLAGS = ("do_sample", "use_cache", "remove_invalid_values", "renormalize_logits")


def read_generation(folder: Path) -> Any:
    """The folder's GenerationConfig; None: it has no such file. Raises InputError for values that make no sense."""
    path = folder / FILE
    if not path.is_file():
        return None
    settings = read_json(path, "a generation config", FIX)
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no JSON object; {FIX}")
    check_generation(settings, str(path))
    with refusing(f"{path} is no generation config that transformers reads", FIX):
        return transformers.GenerationConfig.from_dict(settings)


def check_generation(settings: dict[str, Any], where: str) -> None:
    """Raise InputError naming file and key for a setting of a type, or in a range, that no step could work with."""
    for names, is_right, wanted in _RULES:
        for name in names:
            value = settings.get(name)
            if value is not None and not is_right(value):
                raise InputError(f"{name} in {where} is {brief(value)}; it must be {wanted}; {FIX}")


def _is_whole(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= MOST


def _is_id(value: Any) -> bool:
    """-1 stands for none."""
    return _is_whole(value, -1)


def _is_ids(value: Any) -> bool:
    return all(map(_is_id, value)) if isinstance(value, list) else _is_id(value)


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= MOST  # which is true of no NaN


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (_IDS, _is_ids, "a token id, or a list of them"),
    (_RATES, _is_rate, "a finite number from 0"),
    (_COUNTS, _is_whole, f"a whole number from 0 to {MOST}"),
    (_FLAGS, _is_flag, "true or false"),
)
